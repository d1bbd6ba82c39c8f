// Driver for the official TypeScript SDK 1.x.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { common, MODEL_ANSWER, open, serve, tried, until } from './shared.mjs';

const require = createRequire(process.env.E2E_JS_ROOT + '/package.json');
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const scenarios = {
	...common,
	async initialize(args, c) {
		const { tools } = await c.listTools();
		return { server: c.getServerVersion(), capabilities: c.getServerCapabilities(), protocol: c.transport.protocolVersion,
			session: typeof c.transport.sessionId, tools, ping: await c.ping() };
	},
	async logs({ gate, text }, c, call) {
		const seen = [];
		c.setNotificationHandler(types.LoggingMessageNotificationSchema, (n) => { seen.push(n.params); open(gate); });
		const result = await call('log_until', { gate, text });
		return { seen: seen[0], different: new Set(seen.map((s) => JSON.stringify(s))).size, result };
	},
	async subscribe({ uri, tool, gate }, c, call) {
		const seen = new Set();
		c.setNotificationHandler(types.ResourceUpdatedNotificationSchema, (n) => { seen.add(n.params.uri); open(gate); });
		const subscribed = await c.subscribeResource({ uri });
		await call(tool, { gate, uri });
		await until(() => seen.size, 'resources/updated');
		const read = await c.readResource({ uri });
		if (tool.startsWith('toggle')) await call(tool, {});
		return { subscribed, seen: [...seen], read };
	},
	async sampling({ tool, prompt }, c, call, asked) {
		return { result: await call(tool, { prompt }), asked };
	},
	async terminate(args, c, call) {
		const before = await tried(() => call('echo', { text: 'x', message: 'x' }));
		const session = c.transport.sessionId;
		await c.transport.terminateSession();
		const again = new StreamableHTTPClientTransport(c.transport._url,
			{ requestInit: c.transport._requestInit, sessionId: session });
		const late = await tried(() => again.start().then(() => again.send({ jsonrpc: '2.0', id: 9, method: 'ping' })));
		return { before, late: late.error?.code, cleared: c.transport.sessionId === undefined };
	},
	async resume({ gate, steps }, c, call, asked, connect) {
		// The first connection is dropped after the first event; the second one asks for the rest with Last-Event-ID.
		let token;
		const first = c.callTool({ name: 'gated_progress', arguments: { gate, steps } }, undefined, {
			onprogress: () => {}, onresumptiontoken: (t) => { token ??= t; } });
		first.catch(() => {});
		await until(() => token, 'an event with an id');
		const session = c.transport.sessionId, seen = [];
		await c.close();
		for (let i = 1; i < steps; i++) open(`${gate}/${i}`);
		await until(() => existsSync(`${gate}/stored`), 'the result to be stored');
		const again = await connect(session);
		again.setNotificationHandler(types.ProgressNotificationSchema, (n) => { seen.push(n.params.progress); });
		const params = { name: 'gated_progress', arguments: { gate, steps } };
		const result = await again.request({ method: 'tools/call', params },
			types.CallToolResultSchema, { resumptionToken: token, onresumptiontoken: () => {} });
		await again.close();
		return { seen, result };
	},
};

async function connected(job, asked, session) {
	const c = new Client({ name: 'e2e-ts1', version: '1' }, { capabilities: { sampling: {}, roots: {} } });
	c.setRequestHandler(types.CreateMessageRequestSchema, (r) => { asked.push(r.params); return MODEL_ANSWER; });
	c.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: [] }));
	await c.connect(new StreamableHTTPClientTransport(new URL(job.url),
		{ requestInit: { headers: job.headers }, sessionId: session }));
	return c;
}

serve(async (job) => {
	const asked = [];
	const c = await connected(job, asked);
	const call = (name, args, options) => c.callTool({ name, arguments: args }, undefined, { timeout: 60000, ...options });
	try {
		return await scenarios[job.scenario](job.args, c, call, asked, (session) => connected(job, asked, session));
	} finally {
		await c.close();
	}
});
