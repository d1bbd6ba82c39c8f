// Driver for the official TypeScript SDK 2.x, in either era of the protocol (args.era: legacy or modern).
import { createRequire } from 'node:module';
import { common, MODEL_ANSWER, open, serve, until } from './shared.mjs';

const require = createRequire(process.env.E2E_JS_ROOT + '/package.json');
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const scenarios = {
	...common,
	async initialize(args, c) {
		const { tools } = await c.listTools();
		return { server: c.getServerVersion(), capabilities: c.getServerCapabilities(),
			protocol: c.getNegotiatedProtocolVersion?.() ?? null, tools };
	},
	async logs({ gate, text }, c, call) {
		const seen = [];
		c.setNotificationHandler('notifications/message', (n) => { seen.push(n.params); open(gate); });
		const result = await call('log_until', { gate, text });
		return { seen: seen[0], different: new Set(seen.map((s) => JSON.stringify(s))).size, result };
	},
	async subscribe({ uri, tool, gate }, c, call) {
		const seen = new Set();
		c.setNotificationHandler('notifications/resources/updated', (n) => { seen.add(n.params.uri); open(gate); });
		await c.subscribeResource({ uri });
		await call(tool, { gate, uri });
		await until(() => seen.size, 'resources/updated');
		const read = await c.readResource({ uri });
		if (tool.startsWith('toggle')) await call(tool, {});
		return { seen: [...seen], read };
	},
	async listen({ uri, gate }, c, call) {
		const seen = new Set();
		const look = (what) => { seen.add(what); if (seen.size === 2) open(gate); };
		c.setNotificationHandler('notifications/resources/updated', (n) => look(`updated ${n.params.uri}`));
		c.setNotificationHandler('notifications/tools/list_changed', () => look('tools'));
		const subscription = await c.listen({ toolsListChanged: true, resourceSubscriptions: [uri] });
		const result = await call('touch_until', { gate, uri });
		const honored = subscription.honoredFilter;
		await subscription.close();
		return { honored, seen: [...seen].sort(), result };
	},
	async sampling({ tool, prompt }, c, call, asked) {
		return { result: await call(tool, { prompt }), asked };
	},
};

serve(async (job) => {
	const asked = [];
	const modern = job.args.era === 'modern';
	const c = new Client({ name: 'e2e-ts2', version: '1' }, { capabilities: { sampling: {}, roots: {} },
		versionNegotiation: { mode: modern ? { pin: '2026-07-28' } : 'legacy' } });
	c.setRequestHandler('sampling/createMessage', (r) => { asked.push(r.params); return MODEL_ANSWER; });
	c.setRequestHandler('roots/list', () => ({ roots: [] }));
	await c.connect(new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers: job.headers } }));
	const call = (name, args, options) => c.callTool({ name, arguments: args }, { timeout: 60000, ...options });
	try {
		return await scenarios[job.scenario](job.args, c, call, asked);
	} finally {
		await c.close();
	}
});
