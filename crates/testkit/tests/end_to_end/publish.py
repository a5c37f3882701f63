"""Publishes standard input as one event, as an internal service in Python would: publish.py EXCHANGE ROUTING_KEY."""

import os
import sys

import pika

exchange, routing_key = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(
    exchange=exchange,
    routing_key=routing_key,
    body=sys.stdin.buffer.read(),
    properties=pika.BasicProperties(content_type="application/json", delivery_mode=2),
    mandatory=True,
)
connection.close()
