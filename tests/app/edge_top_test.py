"""edge-top against a page of metrics: what it prints, and how it ends.

usage: edge_top_test.py PATH/TO/edge-top
"""
import http.server
import json
import subprocess
import sys
import threading
import unittest

PAGE = b"# TYPE edge_srs_packs counter\nedge_srs_packs 40\n"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/secret" and self.headers["Authorization"] != "Bearer open sesame":
            self.send_error(401)
            return
        body = b"<html>" if self.path == "/html" else PAGE
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class EdgeTop(unittest.TestCase):
    def run_top(self, *arguments):
        return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)

    def test_once_prints_a_table(self):
        done = self.run_top(ADDRESS, "--once")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^srs +now +per second")
        self.assertRegex(done.stdout, r"\n  packs +40\n$")

    def test_json_is_one_line(self):
        done = self.run_top(ADDRESS, "--once", "--json")
        self.assertEqual(json.loads(done.stdout), {"edge_srs_packs": 40})

    def test_a_token_opens_a_guarded_page(self):
        self.assertEqual(self.run_top(ADDRESS + "/secret", "--once").returncode, 1)
        done = self.run_top(ADDRESS + "/secret", "--once", "--token", "open sesame")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_what_is_no_page_is_named(self):
        done = self.run_top(ADDRESS + "/html", "--once")
        self.assertEqual(done.returncode, 1)
        self.assertIn("line 1: no metric: <html>", done.stderr)

    def test_wrong_arguments_end_with_2(self):
        for arguments in (["--interval", "0"], ["--interval"], ["--what"], ["a", "b"]):
            done = self.run_top(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("edge-top: ", done.stderr)

    def test_help_ends_with_0(self):
        self.assertIn("--interval SECONDS", self.run_top("--help").stdout)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    ADDRESS = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    unittest.main()
