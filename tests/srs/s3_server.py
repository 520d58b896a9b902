"""python3 s3_server.py PACKAGES [check]: S3 (moto) on a free port of loopback until standard
input ends. Prints "PORT KEY SECRET" of a user who may do all in the bucket "bucket". With
"check" every request's signature is checked; moto then refuses, wrongly, all that have an
escaped character in the query, Amazon's own client's too."""
import logging
import os
import sys

logging.getLogger("werkzeug").setLevel(logging.ERROR)
sys.path.insert(0, sys.argv[1])
import boto3  # noqa: E402
from moto import settings  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]


def client(name):
    return boto3.client(
        name, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b")


client("s3").create_bucket(Bucket="bucket")
iam = client("iam")
iam.create_user(UserName="edge")
iam.put_user_policy(
    UserName="edge", PolicyName="all",
    PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", '
                   '"Action": "s3:*", "Resource": "*"}]}')
key = iam.create_access_key(UserName="edge")["AccessKey"]
if sys.argv[2:] == ["check"]:
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
print(port, key["AccessKeyId"], key["SecretAccessKey"], flush=True)
sys.stdin.read()
os._exit(0)
