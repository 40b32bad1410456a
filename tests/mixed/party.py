"""How a party hears what to do: on stdin a JSON object a line, `do` and `with`; on stdout a line for each, its `answer` or its
`error`, after a first one once it is ready.

JSON that Redis holds travels as its text, bytes as base64, in the same form to and from all parties.
"""

import json
import sys
import traceback


def serve(party):
    """Does what it is told until its input ends. An operation is a method."""
    print(json.dumps({"answer": "ready"}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = {"answer": getattr(party, asked["do"])(**asked["with"])}
        except Exception as error:
            traceback.print_exc()
            told = {"error": repr(error)}
        print(json.dumps(told), flush=True)
