"""An OpenAI-compatible server that replies as a test says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ragtune.settings import WriterSettings


class ModelServer:
    """An OpenAI-compatible server on a free loopback port, with faults on demand."""

    def __init__(self, reply):
        self.reply, self.faults, self.requests = reply, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                fault = outer.faults.pop(0) if outer.faults else None
                status, text = fault if fault else (200, outer.reply(body))
                payload = {"error": {"message": text}}
                if status == 200:
                    message = {"role": "assistant", "content": text}
                    payload = {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 0,
                        "model": body["model"],
                        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
                    }
                raw = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def settings(self, kind=WriterSettings, **values):
        base = {
            "model": "openai/writer",
            "url": self.url,
            "api_key": "k",
            "concurrency": 2,
            "timeout": 20,
            "attempts": 3,
        }
        return kind(**{**base, **values})

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def quoting(body):
    """Quote the last sentence-like line of each passage, as an obedient model would."""
    passages = body["messages"][1]["content"].split("\n\nPassage ")
    items = []
    for passage in passages:
        title = passage.split("\n")[1].split(" > ")[0]
        quote = [line for line in passage.split("\n") if len(line.split()) > 4][-1].split(": ")[-1]
        items.append(
            {
                "question": f"What do the documents tell about {title} at its end?",
                "answer": quote.strip(),
                "quotes": [quote.strip()],
                "kind": "fact",
                "difficulty": "hard",
                "paraphrase": f"Which last remark is there on {title} in the documents?",
            }
        )
    if "kind unanswerable" in body["messages"][0]["content"]:
        items.append(
            {"question": f"Who paid for {title} at first?", "answer": "", "quotes": [], "kind": "unanswerable"}
        )
    return json.dumps({"items": items})
