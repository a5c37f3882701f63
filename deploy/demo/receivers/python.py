"""A third-party developer's server in Python: the guide's code, taken out of the guide unchanged, and around it what
the guide leaves to the developer: Flask, a port, the handlers.

    LOKROOM_WEBHOOK_SECRET=whsec_… PORT=3002 .dev/tools/python/bin/python python.py

One line a request on standard output.
"""

import os
import pathlib
import re

from flask import Flask, request
from werkzeug.serving import WSGIRequestHandler, make_server

GUIDE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "guide" / "webhooks-guide.fr.md"

app = Flask(__name__)


def say(text):
    print(f"{text}\n", end="", flush=True)  # one write: requests are served by several threads


@app.after_request
def log(response):
    headers = request.headers
    say(
        f"python {response.status_code} {headers.get('X-Lok-Event')} {headers.get('X-Lok-Event-Id')}"
        f" attempt {headers.get('X-Lok-Attempt')}"
    )
    return response


def handle_booking_created(data):
    say(f"python handles booking {data['id']}")


def handle_payment_succeeded(data):
    say(f"python handles payment {data['paymentIntentId']}")


class Quiet(WSGIRequestHandler):
    """`log` above says more."""

    def log_request(self, *args):
        pass


block = re.search(r"^### Python\n\n```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
if block is None:
    raise SystemExit('the guide has no Python block below "### Python"')
exec(compile(block[1], str(GUIDE), "exec"))  # pylint: disable=exec-used

server = make_server("127.0.0.1", int(os.environ["PORT"]), app, threaded=True, request_handler=Quiet)
say(f"python listens on 127.0.0.1:{server.server_port}")
server.serve_forever()
