-- A tools/call of `echo`, over and over; the result as one line for a program to read.
wrk.method = "POST"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
local key = os.getenv("BENCH_KEY")
if key and key ~= "" then
	wrk.headers["Authorization"] = "Bearer " .. key
end

local pause = tonumber(os.getenv("BENCH_PAUSE_MS") or "0")
if pause > 0 then
	-- Not all connections in step.
	function delay()
		return math.random(0, 2 * pause)
	end
end

function done(summary, latency, requests)
	local e = summary.errors
	local failed = e.connect + e.read + e.write + e.status + e.timeout
	io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
		latency:percentile(99), failed, latency.max))
end
