"""Driver for the official Python SDK 1.x."""

import pathlib

import anyio
import httpx
import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl
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
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ResourceUpdatedNotification
        ):
            self.updated.add(str(message.root.params.uri))
            self.on_news()

    async def initialize(self, args, client, call):
        return {
            "initialize": plain(self.hello),
            "tools": plain(await client.list_tools()),
            "ping": plain(await client.send_ping()),
        }

    async def logs(self, args, client, call):
        self.on_news = pathlib.Path(args["gate"]).touch
        result = await call("log_until", {"gate": args["gate"], "text": args["text"]})
        return {"seen": self.logged[0], "different": len({str(x) for x in self.logged}), "result": plain(result)}

    async def subscribe(self, args, client, call):
        self.on_news = pathlib.Path(args["gate"]).touch
        subscribed = await client.subscribe_resource(AnyUrl(args["uri"]))
        await call(args["tool"], {"gate": args["gate"], "uri": args["uri"]})
        await until(lambda: self.updated, "resources/updated")
        read = await client.read_resource(AnyUrl(args["uri"]))
        if args["tool"].startswith("toggle"):
            await call(args["tool"], {})
        return {"subscribed": plain(subscribed), "seen": sorted(self.updated), "read": plain(read)}

    async def sampling(self, args, client, call):
        return {"result": plain(await call(args["tool"], {"prompt": args["prompt"]})), "asked": self.asked}

    async def cancel(self, args, client, call):
        # Version 1 leaves the notification to the caller.
        journal, ended = args["journal"], []

        async def hang():
            ended.append(await tried(lambda: call("hang", {"journal": journal})))

        async with anyio.create_task_group() as group:
            ident = client._request_id
            group.start_soon(hang)
            await until(lambda: "started" in lines(journal), "the tool to start")
            await client.send_notification(
                types.ClientNotification(
                    types.CancelledNotification(
                        params=types.CancelledNotificationParams(requestId=ident, reason="no longer needed")
                    )
                )
            )
            await until(lambda: "cancelled" in lines(journal), "the cancellation to reach the server")
        return {
            "ended": ended,
            "journal": lines(journal),
            "after": await tried(lambda: call("echo", {"text": "still here"})),
        }


async def run(job):
    scenarios, args = Scenarios(), job["args"]
    async with (
        httpx.AsyncClient(headers=job["headers"], timeout=httpx.Timeout(60, read=120)) as http,
        streamable_http_client(job["url"], http_client=http) as (read, write, _),
        ClientSession(
            read,
            write,
            sampling_callback=scenarios.on_sampling,
            logging_callback=scenarios.on_log,
            message_handler=scenarios.on_message,
        ) as client,
    ):
        scenarios.hello = await client.initialize()

        async def call(name, arguments, progress=None):
            return await client.call_tool(name, arguments, progress_callback=progress)

        return await getattr(scenarios, job["scenario"])(args, client, call)


serve(run)
