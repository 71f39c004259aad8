// Asks a running gateway with the built client; prints what it got as JSON. GATEWAY, KEY and PROJECT say whom.
import { readFile } from "node:fs/promises";
import { ApiError, Client } from "../dist/index.js";

const { GATEWAY, KEY, PROJECT, ITEM } = process.env;
const client = new Client(GATEWAY, { apiKey: KEY, project: PROJECT });
const item = await readFile(ITEM);
const mediaType = "image/png";
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const prediction = await client.predict(item, { mediaType, userKey: "alice", businessKey: "order-7" });
const batch = await client.predictBatch([{ base64: item.toString("base64") }, { text: "no image" }]);
const accepted = await client.predictAsync(item, { mediaType, requestId: "ts-1" });
let later = await client.prediction(accepted.prediction_id);
for (let tries = 0; later.status === "pending" && tries < 100; tries += 1) {
  await pause(100);
  later = await client.prediction(accepted.prediction_id);
}
const feedback = await client.feedback({ label: "boot", prediction_id: prediction.prediction_id });
const project = await client.project();
let refused = null;
try {
  await client.predict("no image", { mediaType });
} catch (error) {
  if (!(error instanceof ApiError)) throw error;
  refused = { status: error.status, code: error.detail.code };
}
console.log(JSON.stringify({ prediction, batch, accepted, later, feedback, project, refused }));
