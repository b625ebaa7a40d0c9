"""What a download says of its end."""

import httpx2
from huggingface_hub.errors import HfHubHTTPError

from src.downloader import Refused, Requests


def test_the_answer_that_failed_is_told_and_not_the_last_of_its_neighbours():
    requests = Requests.__new__(Requests)  # its descriptors belong to a process of its own
    requests.asked, requests.came = "GET https://hub/merges.txt", "200 OK"
    asked = httpx2.Request("GET", "https://hub/vocab.json?token=secret")
    answer = httpx2.Response(429, headers={"retry-after": "3600"}, request=asked)
    told = "asked GET https://hub/vocab.json, got 429 Too Many Requests, wait 3600 seconds"
    assert requests.explain(Refused("too long", answer)) == f"{told} (too long)"
    wrapped = RuntimeError("no model")
    wrapped.__cause__ = HfHubHTTPError("refused", response=answer)
    assert requests.explain(wrapped).startswith(told)
    assert requests.explain(OSError("no space")).startswith(
        "asked GET https://hub/merges.txt, got 200 OK"
    )
