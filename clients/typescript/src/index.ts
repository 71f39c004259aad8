// The client: one method per endpoint over `fetch`, typed by the generated `schema.ts`. No dependency at run time.
import type { components } from "./schema.js";

type Schemas = components["schemas"];
export type Prediction = Schemas["Prediction"];
export type BatchItem = Schemas["BatchItem"];
export type BatchAnswer = Schemas["BatchAnswer"];
export type Accepted = Schemas["Accepted"];
export type PredictionStatus = Schemas["PredictionStatus"];
export type Feedback = Schemas["Feedback"];
export type FeedbackAccepted = Schemas["FeedbackAccepted"];
export type ProjectStatus = Schemas["ProjectStatus"];
export type ErrorDetail = Schemas["ErrorDetail"];
export type { components, operations, paths } from "./schema.js";

/** An encoded image, a text, or the bytes of either. */
export type Item = Blob | Uint8Array<ArrayBuffer> | string;

export interface ItemOptions {
  mediaType: string;
  userKey?: string;
  businessKey?: string;
  modelVersion?: string;
  requestId?: string;
  callbackUrl?: string;
}

export interface ClientOptions {
  apiKey: string;
  project: string;
  timeoutMs?: number;
  fetch?: typeof fetch;
}

/** The gateway refused the request; `detail.code` is stable. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly detail: ErrorDetail,
    readonly retryAfterSeconds: number | null,
  ) {
    super(`${status} ${detail.code}: ${detail.message}`);
    this.name = "ApiError";
  }
}

export class Client {
  readonly #url: string;
  readonly #options: ClientOptions;

  constructor(url: string, options: ClientOptions) {
    this.#url = url.replace(/\/+$/, "");
    this.#options = options;
  }

  predict(item: Item, options: ItemOptions): Promise<Prediction> {
    return this.#send("POST", this.#path("predict"), item, headersOf(options));
  }

  predictBatch(items: BatchItem[], options: Omit<ItemOptions, "mediaType" | "callbackUrl"> = {}): Promise<BatchAnswer> {
    const headers = headersOf({ ...options, mediaType: "application/json" });
    return this.#send("POST", this.#path("predict:batch"), JSON.stringify({ items }), headers);
  }

  predictAsync(item: Item, options: ItemOptions): Promise<Accepted> {
    return this.#send("POST", this.#path("predict:async"), item, headersOf(options));
  }

  prediction(predictionId: string): Promise<PredictionStatus> {
    return this.#send("GET", `/v1/predictions/${encodeURIComponent(predictionId)}`);
  }

  feedback(feedback: Feedback): Promise<FeedbackAccepted> {
    const headers = { "Content-Type": "application/json" };
    return this.#send("POST", this.#path("feedback"), JSON.stringify(feedback), headers);
  }

  project(): Promise<ProjectStatus> {
    return this.#send("GET", `/v1/projects/${encodeURIComponent(this.#options.project)}`);
  }

  #path(verb: string): string {
    return `/v1/projects/${encodeURIComponent(this.#options.project)}/${verb}`;
  }

  async #send<T>(method: string, path: string, body?: Item, headers: Record<string, string> = {}): Promise<T> {
    const response = await (this.#options.fetch ?? fetch)(this.#url + path, {
      method,
      headers: { ...headers, Authorization: `Bearer ${this.#options.apiKey}` },
      redirect: "error",
      signal: AbortSignal.timeout(this.#options.timeoutMs ?? 30_000),
      ...(body === undefined ? {} : { body }),
    });
    const text = await response.text();
    if (response.ok) return JSON.parse(text) as T;
    const after = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
    throw new ApiError(response.status, detailOf(text), Number.isNaN(after) ? null : after);
  }
}

function headersOf(options: ItemOptions): Record<string, string> {
  const given: [string, string | undefined][] = [
    ["Content-Type", options.mediaType],
    ["X-User-Key", options.userKey],
    ["X-Business-Key", options.businessKey],
    ["X-Model-Version", options.modelVersion],
    ["X-Request-Id", options.requestId],
    ["X-Callback-Url", options.callbackUrl],
  ];
  return Object.fromEntries(given.filter((pair): pair is [string, string] => pair[1] !== undefined));
}

function detailOf(text: string): ErrorDetail {
  try {
    return (JSON.parse(text) as Schemas["Error"]).error;
  } catch {
    return { code: "NOT_THE_GATEWAY", message: "the answer must be the gateway's", field: null, request_id: "" };
  }
}
