// Uploads a photo with the TypeScript client of openapi-generator; prints image ids and a number of results.
import { readFile } from "node:fs/promises";
import { Configuration, SearchApi } from "./index";

async function upload(address: string, photo: string): Promise<void> {
  const searches = new SearchApi(new Configuration({ basePath: address }));
  const image = [new Blob([await readFile(photo)])];
  const answer = await searches.searchByPhoto({ image, k: 3, category: "all", where: ["colour=green", "colour=red"] });
  const similar = await searches.similarProducts({ productId: answer.results[0].productId, k: 2, where: ["colour=red"] });
  console.log(JSON.stringify([answer.results.map((one) => one.imageId), similar.results.length]));
}

void upload(process.argv[2], process.argv[3]);
