"""What both Python drivers share: requests come as JSON lines on stdin, records leave as JSON lines on stdout."""

import hashlib
import json
import os
import pathlib
import sys
import traceback

import anyio

SCALE = float(os.environ.get("E2E_TIME_SCALE", "1"))
MODEL_TEXT = "quarante-deux\r\n✓"


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def lines(path):
    path = pathlib.Path(path)
    return path.read_text().split("\n")[:-1] if path.exists() else []


def plain(value):
    """A pydantic value as JSON."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True) if hasattr(value, "model_dump") else value


async def until(condition, what, seconds=30):
    with anyio.move_on_after(seconds * SCALE):
        while not condition():
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"waited in vain: {what}")


async def tried(call):
    try:
        return {"result": plain(await call())}
    except Exception as error:
        return {"error": {"name": type(error).__name__, "message": str(error)}}


class Common:
    """Scenarios that are the same for both generations; call(name, args, progress) is tools/call."""

    async def call(self, args, client, call):
        return [await tried(lambda n=name, a=arguments: call(n, a)) for name, arguments in args["calls"]]

    async def lists(self, args, client, call):
        async def read(listing, key):
            try:
                return plain(await listing())[key]
            except Exception as error:
                if "Method not found" in str(error):
                    return []
                raise

        return {
            "tools": await read(client.list_tools, "tools"),
            "prompts": await read(client.list_prompts, "prompts"),
            "resources": await read(client.list_resources, "resources"),
            "resourceTemplates": await read(client.list_resource_templates, "resourceTemplates"),
        }

    async def progress(self, args, client, call):
        gate, steps, seen = pathlib.Path(args["gate"]), args["steps"], []
        gate.mkdir(parents=True, exist_ok=True)

        async def on_progress(progress, total, message):
            seen.append([progress, total, message])
            if progress < steps:
                (gate / str(int(progress))).touch()

        result = await call("gated_progress", {"gate": str(gate), "steps": steps}, on_progress)
        return {"seen": seen, "result": plain(result)}

    async def parallel(self, args, client, call):
        count, answers = args["count"], {}

        async def one(index):
            text = f"call {index} {sha256(str(index))}"
            answer = await call(args["tool"], {"text": text, "seconds": (index * 37 % count) / count / 4})
            answers[index] = {"asked": text, "got": answer.content[0].text}

        async with anyio.create_task_group() as group:
            for index in range(count):
                group.start_soon(one, index)
        return [answers[index] for index in range(count)]

    async def big(self, args, client, call):
        text = "ä€𝄞 0123456789\r\n" * (args["size"] // 22 + 1)  # 22 bytes of UTF-8
        answer = await call(args["tool"], {args["argument"]: text})
        got = answer.content[0].text
        return {"bytes": len(got.encode()), "sha256": sha256(got), "same": got.endswith(text)}


def serve(run):
    print('{"id":0,"record":"ready"}', flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {"id": job["id"], "record": anyio.run(run, job)}
        except BaseException:
            answer = {"id": job["id"], "failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
