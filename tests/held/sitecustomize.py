"""On PYTHONPATH of a run, Python imports this first: it holds a process at a file operation until a gate is opened.

HELD_AT is a list of rules in JSON. A rule waits for the audit event `event` on a path that matches `path`, lets it pass
`skip` times, and then acts once, before the operation:
  hold   writes the file <gate>.<name>.<pid> and waits until the file <gate> exists
  open   creates <gate>
"""

import json
import os
import re
import sys
import time

RULES = json.loads(os.environ.get("HELD_AT", "[]"))


def obey(event, arguments):
    """Act on every rule that this operation was waited for by."""
    if event not in ("open", "os.link", "os.rename"):
        return
    path = arguments[0] if event == "open" else arguments[1]
    for rule in RULES:
        if event == rule["event"] and not isinstance(path, int) and re.search(rule["path"], os.fsdecode(path)):
            rule["skip"] -= 1
            if rule["skip"] == -1:
                act(**rule)


def act(name, gate, hold, **_):
    """Hold this thread, or let the others go."""
    signs = f"{gate}.{name}.{os.getpid()}" if hold else gate
    os.close(os.open(signs, os.O_CREAT))
    while hold and not os.path.exists(gate):
        if not os.path.exists(signs):  # the test is over and its folder gone
            os._exit(1)
        time.sleep(0.02)


if RULES:
    sys.addaudithook(obey)
