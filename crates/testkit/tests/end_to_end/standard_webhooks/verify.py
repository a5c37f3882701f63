"""Verifies requests with the public library of Standard Webhooks. Standard input: {"secret", "requests": [{"headers", "body"}]}.
Prints one line a request: `ok`, or why not."""

import json
import sys

from standardwebhooks.webhooks import Webhook

asked = json.loads(sys.stdin.buffer.read())
for request in asked["requests"]:
    try:
        Webhook(asked["secret"]).verify(request["body"], request["headers"])
        print("ok")
    except Exception as error:
        print(error)
