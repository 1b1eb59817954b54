// Uploads a photo with openapi-fetch and the types of openapi-typescript; prints image ids and a number of results.
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { paths } from "./contract";

async function upload(address: string, photo: string): Promise<void> {
  const client = createClient<paths>({ baseUrl: address });
  const image = [new Blob([await readFile(photo)])];
  const { data, error } = await client.POST("/v1/search", {
    body: { image, k: 3, category: "all", where: ["colour=green", "colour=red"] },
    bodySerializer(body) {
      const form = new FormData();
      for (const [name, value] of Object.entries(body)) {
        for (const one of [value].flat()) form.append(name, one instanceof Blob ? one : String(one));
      }
      return form;
    },
  });
  if (error) throw new Error(error.detail);
  const similar = await client.GET("/v1/products/{product_id}/similar", {
    params: { path: { product_id: data.results[0].product_id }, query: { k: 2, where: ["colour=red"] } },
  });
  console.log(JSON.stringify([data.results.map((one) => one.image_id), similar.data?.results.length]));
}

void upload(process.argv[2], process.argv[3]);
