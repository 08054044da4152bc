"""Crawl a site with asyncio, twenty requests at once: python3 crawl_asyncio.py DIRECTORY URL SECONDS

SECONDS are between two requests to a host. Kill it whenever you like, and start it again, or start it several times at
once: no page is lost.
"""

import asyncio
import re
import sys
from contextlib import suppress
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx

from rack import PersistentDict, PersistentQueue

directory, start, pause = sys.argv[1:]
todo = PersistentQueue(f"{directory}/todo", lease=60, unique="ever", max_claims=8, pause=float(pause))
pages = PersistentDict(f"{directory}/pages")  # the text of each URL


async def main():
    with todo, pages:
        put(start)  # which is new the first time only
        async with httpx.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(work(client))
        print(todo.counts())


# What uses the disk runs in a thread: it takes microseconds, but it may have to wait for another process.


async def work(client):
    while await asyncio.to_thread(len, todo):  # jobs that wait, or that another task or process has
        job = await asyncio.to_thread(todo.claim)
        if job is None:
            await asyncio.sleep(0.05)
            continue
        try:
            response = await client.get(job.item)
        except Exception:
            await asyncio.to_thread(job.release, 0.5)  # claimed again in half a second; if eight times, it has failed
        else:
            await asyncio.to_thread(keep, job, response)


def keep(job, response):
    # It is done at the end of the block. An exception gives it back; the eighth one is in todo.failed().
    with suppress(Exception), job:
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
    asyncio.run(main())
