"""Crawl a site with four processes: python3 crawl_processes.py DIRECTORY URL SECONDS

SECONDS are between two requests to a host. Kill what you like, whenever you like, and start it again: no page is lost.
"""

import multiprocessing
import re
import sys
from contextlib import suppress
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx

from rack import PersistentDict, PersistentQueue

directory, start, pause = sys.argv[1:]
todo = PersistentQueue(f"{directory}/todo", lease=60, unique="ever", max_claims=8, pause=float(pause))
pages = PersistentDict(f"{directory}/pages")  # the text of each URL


def work():
    with todo, pages, httpx.Client(timeout=20) as client:
        while len(todo):  # jobs that wait, or that another process has
            if job := todo.claim(wait=1):
                # It is done at the end of the block. An exception gives it back; the eighth one is in todo.failed().
                with suppress(Exception), job:
                    visit(job, client)


def visit(job, client):
    response = client.get(job.item)
    if response.is_client_error:
        job.fail(f"{response.status_code} {response.reason_phrase}")  # it would be no better the next time
    elif response.has_redirect_location:
        put(str(response.next_request.url))
    else:
        response.raise_for_status()
        pages[job.item] = response.text  # before the job is done: a page may come twice, but none is lost
        for link in re.findall(r'href="([^"]+)"', response.text):
            put(urljoin(job.item, link))


def put(link):
    url, _ = urldefrag(link)
    if urlsplit(url).hostname == urlsplit(start).hostname:  # stay on this site
        todo.put(url, group=urlsplit(url).netloc)  # to each host one request at a time


if __name__ == "__main__":
    with todo:
        put(start)  # which is new the first time only
    workers = [multiprocessing.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with todo:
        print(todo.counts())
