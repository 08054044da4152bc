"""Crawl a site with Scrapy: python3 crawl_scrapy.py DIRECTORY URL SECONDS

SECONDS are between two requests to a host. Start it in as many processes as you like, kill them whenever you like, and
start it again, with the same directory: no page is lost.
"""

import sys
from urllib.parse import urlsplit

from scrapy import Spider
from scrapy.crawler import CrawlerProcess

directory, start, pause = sys.argv[1:]


class Pages(Spider):
    name = "pages"
    start_urls = [start]
    allowed_domains = [urlsplit(start).hostname]  # stay on this site

    def parse(self, response):
        yield {"url": response.url, "text": response.text}  # kept in a store, once, however often its page is crawled
        for link in response.css("a"):
            yield response.follow(link)


if __name__ == "__main__":
    settings = {
        "ADDONS": {"rack.adapters.scrapy.RackAddon": 0},
        "RACK_STORE": f"{directory}/crawl",  # where all processes find what is to be done
        "DOWNLOAD_DELAY": float(pause),
        "LOG_LEVEL": "INFO",
    }
    process = CrawlerProcess(settings)
    process.crawl(Pages)
    process.start()
