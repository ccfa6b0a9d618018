#!/usr/bin/env python3
"""A driver for atedge in Python: a thermometer with a set point, on standard input and output.

Put it into /etc/atedge/exec, owned by root, and name it in the configuration:

    [[driver]]
    id = "boiler"
    type = "exec"
    program = "thermometer.py"
"""
import json
import random
import selectors
import sys


def say(message):
    print(json.dumps(message), flush=True)


set_point = 20.0
number = 0
number_schema = {"type": "number", "minimum": 5, "maximum": 30}
say({"commands": [
    {"name": "set", "idempotent": True, "readBack": "get", "argsSchema": {
        "type": "object", "properties": {"to": number_schema}, "required": ["to"], "additionalProperties": False}},
    {"name": "get", "idempotent": True},
], "gives": [{"name": "temperature", "unit": "Cel", "type": "number"}]})

selector = selectors.DefaultSelector()
selector.register(sys.stdin, selectors.EVENT_READ)
while True:
    for _ in selector.select(timeout=1):
        line = sys.stdin.readline()
        if not line:  # The agent has closed our input: we are done.
            sys.exit(0)
        request = json.loads(line)
        if "call" in request:
            if request["command"] == "set":
                set_point = request["args"]["to"]
            say({"answer": request["call"], "result": {"setPoint": set_point}})
        elif "ack" in request:
            pass  # Reading number request["ack"] is safe; a device with a memory may forget it now.
    number += 1
    value = round(set_point + random.uniform(-0.5, 0.5), 2)
    say({"readings": [{"name": "temperature", "unit": "Cel", "value": value}], "n": number})
