// What Node's HTTP parser (llhttp) and ws say of records, in the lines of tests/lib/wire_lines.c. parsers.mjs request|response|server|client
import { createRequire } from "node:module";
import { readFileSync, writeSync } from "node:fs";
import path from "node:path";

const what = process.argv[2];
const hex = (data) => (data && data.length ? Buffer.from(data, "latin1").toString("hex") : "-");
const input = readFileSync(0);
const lines = [];

function http(kind) {
	const { HTTPParser, methods, allMethods } = process.binding("http_parser");
	const names = allMethods ?? methods;
	const one = (bytes) => {
		const parser = new HTTPParser();
		const out = [];
		let fields = [], target = "", interim = false;
		const add = (list, url) => {
			fields.push(...list);
			target += url ?? "";
		};
		parser[HTTPParser.kOnMessageBegin | 0] = () => {};
		parser[HTTPParser.kOnHeaders | 0] = add;
		parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, list, method, url, status, reason) => {
			add(list ?? [], url);
			const words = [];
			for (let i = 0; i < fields.length; i += 2) words.push(`${hex(fields[i])}=${hex(fields[i + 1])}`);
			const first = kind === "request" ? `${hex(names[method])} ${hex(target)}` : `${status} ${hex(reason.trim())}`;
			out.push(["h", first, `${major}.${minor}`, ...words].join(" "));
			interim = status >= 100 && status < 200 && status !== 101;
			fields = [];
			target = "";
			return 0;
		};
		parser[HTTPParser.kOnBody | 0] = (chunk) => out.push(`d ${hex(chunk.toString("latin1"))}`);
		parser[HTTPParser.kOnMessageComplete | 0] = () => {
			fields = []; // of a trailer
			target = "";
			if (!interim) out.push("e");
		};
		parser.initialize(kind === "request" ? HTTPParser.REQUEST : HTTPParser.RESPONSE, {}, 1 << 20, 0);
		const result = parser.execute(bytes);
		const wrong = result instanceof Error ? result : parser.finish();
		if (wrong instanceof Error) out.push(`b ${wrong.code}`);
		else if (result < bytes.length) out.push("u");
		parser.close();
		return out.join("\t");
	};
	return (bytes) => Promise.resolve(one(bytes));
}

function ws(role) {
	const require = createRequire(path.join(process.env.E2E_JS_ROOT, "node_modules/ws/package.json"));
	const Receiver = require("./lib/receiver.js");
	return (bytes) =>
		new Promise((resolve) => {
			const receiver = new Receiver({ isServer: role === "server", binaryType: "nodebuffer", maxPayload: 1 << 20 });
			const out = [];
			const done = () => resolve(out.join("\t"));
			receiver.on("message", (data, binary) => out.push(`${binary ? "m" : "t"} ${hex(data.toString("latin1"))}`));
			receiver.on("ping", (data) => out.push(`i ${hex(data.toString("latin1"))}`));
			receiver.on("pong", (data) => out.push(`o ${hex(data.toString("latin1"))}`));
			receiver.on("conclude", (code, reason) => {
				out.push(`c ${code} ${hex(reason.toString("latin1"))}`);
				done();
			});
			receiver.on("error", (e) => {
				out.push(`b ${e.code}`);
				done();
			});
			receiver.on("finish", done);
			receiver.end(bytes);
		});
}

const parse = what === "request" || what === "response" ? http(what) : ws(what);
for (let at = 0; at + 4 <= input.length; ) {
	const end = at + 4 + input.readUInt32BE(at);
	lines.push(await parse(input.subarray(at + 4, end)));
	at = end;
}
const output = Buffer.from(lines.join("\n") + "\n");
for (let at = 0; at < output.length; ) at += writeSync(1, output, at);
