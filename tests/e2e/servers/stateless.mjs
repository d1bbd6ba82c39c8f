// The TypeScript SDK 2.x server, stateless, revision 2026-07-28 only.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { appendFileSync, existsSync } from 'node:fs';

const require = createRequire(process.env.E2E_JS_ROOT + '/package.json');
const { McpServer, createMcpHandler, inputRequired } = require('@modelcontextprotocol/server');
const { toNodeHandler, localhostHostValidation, localhostOriginValidation } = require('@modelcontextprotocol/node');
const z = require('zod');

const text = (t) => ({ content: [{ type: 'text', text: t }] });
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const NOTE = 'note://one';

function makeServer() {
	const server = new McpServer({ name: 'stateless', version: '1.0.0' },
		{ capabilities: { tools: { listChanged: true }, resources: { subscribe: true, listChanged: true }, logging: {} } });

	server.registerTool('echo', { description: 'Echoes', inputSchema: z.object({ text: z.string() }) },
		async ({ text: t }) => text(t));

	server.registerTool('echo_after', { inputSchema: z.object({ text: z.string(), seconds: z.number() }) },
		async ({ text: t, seconds }) => { await pause(seconds * 1000); return text(t); });

	server.registerTool('add', {
		inputSchema: z.object({ a: z.number(), b: z.number() }), outputSchema: z.object({ sum: z.number() })
	}, async ({ a, b }) => ({ ...text(String(a + b)), structuredContent: { sum: a + b } }));

	server.registerTool('räume_prüfen', { description: 'A name that travels as =?base64?', inputSchema: z.object({}) },
		async () => text('geprüft'));

	server.registerTool('gated_progress', { inputSchema: z.object({ gate: z.string(), steps: z.number() }) },
		async ({ gate, steps }, ctx) => {
			for (let step = 1; step <= steps; step++) {
				await ctx.mcpReq.notify({ method: 'notifications/progress', params: {
					progressToken: ctx.mcpReq._meta?.progressToken, progress: step, total: steps, message: `step ${step}` } });
				while (step < steps && !existsSync(`${gate}/${step}`)) await pause(10);
			}
			return text('all steps done');
		});

	server.registerTool('hang', { inputSchema: z.object({ journal: z.string() }) }, async ({ journal }, ctx) => {
		appendFileSync(journal, 'started\n');
		await new Promise((done) => ctx.mcpReq.signal.addEventListener('abort', done));
		appendFileSync(journal, 'cancelled\n');
		return text('never');
	});

	server.registerTool('ask_model', { inputSchema: z.object({ prompt: z.string() }) }, async ({ prompt }, ctx) => {
		const answer = ctx.mcpReq.inputResponses?.answer;
		if (!answer)
			return inputRequired({ inputRequests: { answer: inputRequired.createMessage({
				messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens: 50, systemPrompt: 'Répondez.' }) } });
		return text(`${answer.model} said: ${answer.content.text}`);
	});

	server.registerTool('touch_until', { inputSchema: z.object({ gate: z.string(), uri: z.string() }) },
		async ({ gate, uri }) => {
			while (!existsSync(gate)) { handler.notify.resourceUpdated(uri); handler.notify.toolsChanged(); await pause(50); }
			return text('touched');
		});

	server.registerResource('note', NOTE, { mimeType: 'text/plain' },
		async (uri) => ({ contents: [{ uri: uri.href, text: 'un été' }] }));
	return server;
}

const handler = createMcpHandler(makeServer, { legacy: 'reject' });
const serve = toNodeHandler(handler);
const validHost = localhostHostValidation(), validOrigin = localhostOriginValidation();
const http = createServer((req, res) => {
	if (!validHost(req, res) || !validOrigin(req, res)) return;
	if (new URL(req.url, 'http://x').pathname !== '/mcp') { res.writeHead(404).end(); return; }
	serve(req, res);
});
http.listen(0, '127.0.0.1', () => console.error(`listening on http://127.0.0.1:${http.address().port}`));
