// What both TypeScript drivers share: requests come as JSON lines on stdin, records leave as JSON lines on stdout.
import { createInterface } from 'node:readline';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync, mkdirSync } from 'node:fs';

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const sha256 = (s) => createHash('sha256').update(s).digest('hex');
export const lines = (file) => (existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n').filter(Boolean) : []);
export const open = (file) => writeFileSync(file, '');
export const MODEL_ANSWER = {
	model: 'test-model', role: 'assistant', content: { type: 'text', text: 'quarante-deux\r\n✓' },
};

export async function until(condition, what, ms = 30000) {
	const end = Date.now() + ms * Number(process.env.E2E_TIME_SCALE || 1);
	while (!condition()) {
		if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
		await sleep(10);
	}
}

export const tried = async (call) => {
	try {
		return { result: await call() };
	} catch (e) {
		return { error: { name: e.constructor.name, code: e.code ?? null, message: e.message } };
	}
};

// Scenarios that are the same for every generation of the SDK; `c` is a connected client, `call` its tools/call.
export const common = {
	async call({ calls }, c, call) {
		const out = [];
		for (const [name, args] of calls) out.push(await tried(() => call(name, args)));
		return out;
	},
	async lists(args, c) {
		const read = async (list, key) => (await list()
			.catch((e) => { if (e.code === -32601) return { [key]: [] }; throw e; }))[key];
		return {
			tools: await read(() => c.listTools(), 'tools'),
			prompts: await read(() => c.listPrompts(), 'prompts'),
			resources: await read(() => c.listResources(), 'resources'),
			resourceTemplates: await read(() => c.listResourceTemplates(), 'resourceTemplates'),
		};
	},
	async progress({ gate, steps }, c, call) {
		mkdirSync(gate, { recursive: true });
		const seen = [];
		const result = await call('gated_progress', { gate, steps }, { onprogress: (p) => {
			seen.push(p);
			if (p.progress < steps) open(`${gate}/${p.progress}`);
		} });
		return { seen, result };
	},
	async cancel({ journal }, c, call) {
		const abort = new AbortController();
		const ending = tried(() => call('hang', { journal }, { signal: abort.signal }));
		await until(() => lines(journal).includes('started'), 'the tool to start');
		abort.abort('no longer needed');
		const ended = await ending;
		await until(() => lines(journal).includes('cancelled'), 'the cancellation to reach the server');
		const after = await tried(() => call('echo', { text: 'still here' }));
		return { error: ended.error?.name, journal: lines(journal), after };
	},
	async parallel({ count, tool }, c, call) {
		const texts = Array.from({ length: count }, (_, i) => `call ${i} ${sha256(String(i))}`);
		const answers = await Promise.all(texts.map((text, i) =>
			call(tool, { text, seconds: ((i * 37) % count) / count / 4 })));
		return answers.map((a, i) => ({ asked: texts[i], got: a.content[0].text }));
	},
	async big({ size, tool, argument }, c, call) {
		const text = 'ä€𝄞 0123456789\r\n'.repeat(Math.ceil(size / 22)); // 22 bytes of UTF-8
		const answer = await call(tool, { [argument]: text });
		const got = answer.content[0].text;
		return { bytes: Buffer.byteLength(got), sha256: sha256(got), same: got.endsWith(text) };
	},
};

export function serve(run) {
	const input = createInterface({ input: process.stdin });
	input.on('line', async (line) => {
		const job = JSON.parse(line);
		let answer;
		try { answer = { id: job.id, record: await run(job) }; } catch (e) {
			answer = { id: job.id, failed: `${e.stack}${e.cause ? `\ncause: ${e.cause.stack ?? e.cause}` : ''}` };
		}
		process.stdout.write(JSON.stringify(answer) + '\n');
	});
	input.on('close', () => process.exit(0));
	process.stdout.write('{"id":0,"record":"ready"}\n');
}
