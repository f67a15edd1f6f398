"""A server program with moods, chosen by its user's name: for the pages that only a bad day shows.

slow: never listens; quick: listens at once; fails: says why on its output and ends with 3;
stubborn: listens and does not want to end.
"""

import http.server
import os
import signal
import sys
import time
from urllib.parse import urlsplit

mood = os.environ["JUPYTERHUB_USER"]
address = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
        self.wfile.write(b"a moody server\n")

    def log_message(self, *_anything):
        pass


if mood == "fails":
    print("Traceback: cannot open the home folder /home/fails: No space left on device", flush=True)
    time.sleep(2)
    sys.exit(3)
if mood == "slow":
    print("still looking for my slippers", flush=True)
    time.sleep(120)
if mood == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
http.server.ThreadingHTTPServer((address.hostname, address.port), Answer).serve_forever()
