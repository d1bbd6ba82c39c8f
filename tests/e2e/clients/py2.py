"""Driver for the official Python SDK 2.x, in either era of the protocol (args.era: legacy or modern)."""

import pathlib

import anyio
import httpx2
import mcp_types as types
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from shared import MODEL_TEXT, Common, lines, plain, serve, tried, until


class Scenarios(Common):
    def __init__(self):
        self.asked, self.logged, self.updated, self.on_news = [], [], set(), lambda: None

    async def on_sampling(self, context, params):
        self.asked.append(plain(params))
        return types.CreateMessageResult(
            model="test-model", role="assistant", content=types.TextContent(type="text", text=MODEL_TEXT)
        )

    async def on_log(self, params):
        self.logged.append(plain(params))
        self.on_news()

    async def on_message(self, message):
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updated.add(str(message.params.uri))
            self.on_news()

    async def initialize(self, args, client, call):
        return {
            "server": plain(client.server_info),
            "capabilities": plain(client.server_capabilities),
            "protocol": client.protocol_version,
            "tools": plain(await client.list_tools()),
        }

    async def logs(self, args, client, call):
        self.on_news = pathlib.Path(args["gate"]).touch
        result = await call("log_until", {"gate": args["gate"], "text": args["text"]})
        return {"seen": self.logged[0], "different": len({str(x) for x in self.logged}), "result": plain(result)}

    async def subscribe(self, args, client, call):
        self.on_news = pathlib.Path(args["gate"]).touch
        await client.session.subscribe_resource(args["uri"])
        await call(args["tool"], {"gate": args["gate"], "uri": args["uri"]})
        await until(lambda: self.updated, "resources/updated")
        return {"seen": sorted(self.updated), "read": plain(await client.read_resource(args["uri"]))}

    async def listen(self, args, client, call):
        seen = set()
        async with client.listen(tools_list_changed=True, resource_subscriptions=[args["uri"]]) as subscription:
            async with anyio.create_task_group() as group:
                group.start_soon(call, "touch_until", {"gate": args["gate"], "uri": args["uri"]})
                async for event in subscription:
                    seen.add(repr(event))
                    if len(seen) == 2:
                        break
                pathlib.Path(args["gate"]).touch()
        return {"honored": plain(subscription.honored), "seen": sorted(seen)}

    async def sampling(self, args, client, call):
        return {"result": plain(await call(args["tool"], {"prompt": args["prompt"]})), "asked": self.asked}

    async def cancel(self, args, client, call):
        journal = args["journal"]
        async with anyio.create_task_group() as group:
            group.start_soon(call, "hang", {"journal": journal})
            await until(lambda: "started" in lines(journal), "the tool to start")
            group.cancel_scope.cancel()
        await until(lambda: "cancelled" in lines(journal), "the cancellation to reach the server")
        return {"journal": lines(journal), "after": await tried(lambda: call("echo", {"text": "still here"}))}


async def run(job):
    scenarios, args = Scenarios(), job["args"]
    async with httpx2.AsyncClient(headers=job["headers"], timeout=httpx2.Timeout(60, read=120)) as http:
        mode = "2026-07-28" if args.get("era") == "modern" else "legacy"
        async with Client(
            streamable_http_client(job["url"], http_client=http, max_sse_event_size=None),
            mode=mode,
            cache=None,
            sampling_callback=scenarios.on_sampling,
            logging_callback=scenarios.on_log,
            message_handler=scenarios.on_message,
        ) as client:

            async def call(name, arguments, progress=None):
                return await client.call_tool(name, arguments, progress_callback=progress)

            return await getattr(scenarios, job["scenario"])(args, client, call)


serve(run)
