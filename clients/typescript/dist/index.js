/** The gateway refused the request; `detail.code` is stable. */
export class ApiError extends Error {
    status;
    detail;
    retryAfterSeconds;
    constructor(status, detail, retryAfterSeconds) {
        super(`${status} ${detail.code}: ${detail.message}`);
        this.status = status;
        this.detail = detail;
        this.retryAfterSeconds = retryAfterSeconds;
        this.name = "ApiError";
    }
}
export class Client {
    #url;
    #options;
    constructor(url, options) {
        this.#url = url.replace(/\/+$/, "");
        this.#options = options;
    }
    predict(item, options) {
        return this.#send("POST", this.#path("predict"), item, headersOf(options));
    }
    predictBatch(items, options = {}) {
        const headers = headersOf({ ...options, mediaType: "application/json" });
        return this.#send("POST", this.#path("predict:batch"), JSON.stringify({ items }), headers);
    }
    predictAsync(item, options) {
        return this.#send("POST", this.#path("predict:async"), item, headersOf(options));
    }
    prediction(predictionId) {
        return this.#send("GET", `/v1/predictions/${encodeURIComponent(predictionId)}`);
    }
    feedback(feedback) {
        const headers = { "Content-Type": "application/json" };
        return this.#send("POST", this.#path("feedback"), JSON.stringify(feedback), headers);
    }
    project() {
        return this.#send("GET", `/v1/projects/${encodeURIComponent(this.#options.project)}`);
    }
    #path(verb) {
        return `/v1/projects/${encodeURIComponent(this.#options.project)}/${verb}`;
    }
    async #send(method, path, body, headers = {}) {
        const response = await (this.#options.fetch ?? fetch)(this.#url + path, {
            method,
            headers: { ...headers, Authorization: `Bearer ${this.#options.apiKey}` },
            redirect: "error",
            signal: AbortSignal.timeout(this.#options.timeoutMs ?? 30_000),
            ...(body === undefined ? {} : { body }),
        });
        const text = await response.text();
        if (response.ok)
            return JSON.parse(text);
        const after = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
        throw new ApiError(response.status, detailOf(text), Number.isNaN(after) ? null : after);
    }
}
function headersOf(options) {
    const given = [
        ["Content-Type", options.mediaType],
        ["X-User-Key", options.userKey],
        ["X-Business-Key", options.businessKey],
        ["X-Model-Version", options.modelVersion],
        ["X-Request-Id", options.requestId],
        ["X-Callback-Url", options.callbackUrl],
    ];
    return Object.fromEntries(given.filter((pair) => pair[1] !== undefined));
}
function detailOf(text) {
    try {
        return JSON.parse(text).error;
    }
    catch {
        return { code: "NOT_THE_GATEWAY", message: "the answer must be the gateway's", field: null, request_id: "" };
    }
}
