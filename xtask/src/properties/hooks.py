"""What the tester does not know by itself: lines of JSON, one for each user."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def line(_context, value):
    """A body of one line; what is no JSON is sent as it is."""
    if isinstance(value, bytes):
        return value
    return json.dumps(value).encode() + b"\n"
