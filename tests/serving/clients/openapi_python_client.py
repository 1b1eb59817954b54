"""Uploads a photo with the client that openapi-python-client generates; prints image ids and a number of results."""

import json
import sys
from pathlib import Path

from likeness_client import Client
from likeness_client.api.catalogue import thumbnail
from likeness_client.api.search import search_by_photo, similar_products
from likeness_client.models import PhotoQuery
from likeness_client.types import File

address, photo = sys.argv[1:]
client = Client(base_url=address, raise_on_unexpected_status=True)
with Path(photo).open("rb") as file:
    query = PhotoQuery(image=[File(file, "hat.jpg")], k=3, category="all", where=["colour=green", "colour=red"])
    answer = search_by_photo.sync(client=client, body=query)
similar = similar_products.sync(answer.results[0].product_id, client=client, k=2, where=["colour=red"])
assert thumbnail.sync(answer.results[0].image_id, client=client).payload.read(2) == b"\xff\xd8"
assert similar_products.sync("nothing", client=client).code == "unknown"
print(json.dumps([[one.image_id for one in answer.results], len(similar.results)]))
