"""Uploads a photo with the Python client of openapi-generator; prints image ids and a number of results."""

import json
import sys
from pathlib import Path

from likeness_client import ApiClient, CatalogueApi, Configuration, SearchApi
from likeness_client.exceptions import NotFoundException

address, photo = sys.argv[1:]
with ApiClient(Configuration(host=address)) as client:
    searches = SearchApi(client)
    where = ["colour=green", "colour=red"]
    answer = searches.search_by_photo([Path(photo).read_bytes()], k=3, category="all", where=where)
    similar = searches.similar_products(answer.results[0].product_id, k=2, where=["colour=red"])
    assert CatalogueApi(client).thumbnail(answer.results[0].image_id)[:2] == b"\xff\xd8"
    code = ""
    try:
        searches.similar_products("nothing")
    except NotFoundException as error:
        code = error.data.code
    assert code == "unknown"
print(json.dumps([[one.image_id for one in answer.results], len(similar.results)]))
