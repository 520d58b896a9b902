"""python3 edge_srs_test.py EDGE_SRS STORE_MAKER: runs every command of the program on a store
that STORE_MAKER (the example srs_time_travel) leaves behind, and looks at what it says."""
import json
import os
import sqlite3
import subprocess
import sys
import tempfile

program, maker = sys.argv[1:]
environment = {**os.environ, "AWS_ACCESS_KEY_ID": "", "TMPDIR": tempfile.gettempdir()}
failures = 0


def run(*arguments, code=0):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    expect(done.returncode == code,
           f"{arguments} ended with {done.returncode}, not {code}: {done.stderr}")
    return done


def expect(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def lines(*arguments, code=0):
    return [json.loads(line) for line in run(*arguments, "--json", code=code).stdout.splitlines()]


with tempfile.TemporaryDirectory() as folder:
    store = f"{folder}/store"
    made = subprocess.run([maker, folder], capture_output=True, text=True)
    expect(made.returncode == 0, made.stdout + made.stderr)

    listed, fork = lines("ls", store)
    name = listed["name"]
    expect(lines("info", store, fork["name"])[0]["forked_from"] == name, fork)
    expect(name in run("ls", store).stdout, "ls as text")
    (info,) = lines("info", store, name)
    expect(info["lsn"] == listed["lsn"], info)
    expect(info["newest_bookmark"] > info["oldest_bookmark"], info)
    expect("newest_bookmark" in run("info", store, name).stdout, "info as text")

    out = f"{folder}/out.db"
    (restored,) = lines("restore", f"{store}/{name}", "-o", out)
    expect(restored["lsn"] == info["lsn"], restored)
    tables = sqlite3.connect(out).execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    expect(tables > 0, "the restored file has no tables")
    expect(sqlite3.connect(out).execute("PRAGMA integrity_check").fetchone()[0] == "ok", "integrity")
    (then,) = lines("restore", store, name, "-o", out, "--at", info["committed"])
    expect(then["lsn"] == info["lsn"], then)
    (first,) = lines("restore", store, name, "-o", out, "--bookmark", info["oldest_bookmark"])
    expect(first["lsn"] < info["lsn"], first)
    lines("restore", store, name, "-o", f"{folder}/litestream", "--litestream")
    expect(os.listdir(f"{folder}/litestream/ltx/9")[0].endswith(".ltx"), "litestream's layout")

    verified, _ = lines("verify", store)
    expect(verified["result"] == "good" and verified["lsn"] == info["lsn"], verified)
    (followed,) = lines("follow", store, name, "-o", out, "--once")
    expect(followed["lsn"] == info["lsn"], followed)
    (garbage,) = lines("gc", store, "--dry-run")
    expect(garbage["deleted"] == 0 and garbage["packs"] > 0, garbage)
    (garbage,) = lines("gc", store)
    expect(garbage["deleted"] == 0, garbage)
    (bench,) = lines("bench", store, name)
    expect(bench["first_query_reads"] < 20 and bench["schema_objects"] == tables, bench)

    expect("COMMAND" in run("--help").stdout, "--help")
    for arguments in ([], ["dance", store], ["ls"], ["info", "x"], ["ls", store, "--loud"],
                      ["restore", store, name], ["ls", store, "more"],
                      ["restore", store, name, "-o", out, "--at", "yesterday"],
                      ["gc", store, "--retention-days", "-1"]):
        expect("--help" in run(*arguments, code=2).stderr, arguments)
    expect("NOT_FOUND" in run("info", store, "nobody", code=1).stderr, "an unknown name")
    expect("AWS_ACCESS_KEY_ID" in run("ls", "s3://bucket", code=1).stderr, "missing credentials")
    expect("bookmark" in run("restore", store, name, "-o", out, "--bookmark", "x", code=1).stderr,
           "a bad bookmark")

    pack = next(os.path.join(at, file) for at, _, files in os.walk(f"{store}/v1/pack")
                for file in files if file.endswith(".pack"))
    content = bytearray(open(pack, "rb").read())
    content[len(content) // 3] ^= 1
    open(pack, "wb").write(content)
    damaged = run("verify", store, "--json", code=1)
    expect(os.path.basename(pack) in damaged.stdout + damaged.stderr, damaged)

print("edge-srs:", "all as expected" if failures == 0 else f"{failures} failures")
sys.exit(1 if failures else 0)
