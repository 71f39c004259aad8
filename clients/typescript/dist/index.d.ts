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
export declare class ApiError extends Error {
    readonly status: number;
    readonly detail: ErrorDetail;
    readonly retryAfterSeconds: number | null;
    constructor(status: number, detail: ErrorDetail, retryAfterSeconds: number | null);
}
export declare class Client {
    #private;
    constructor(url: string, options: ClientOptions);
    predict(item: Item, options: ItemOptions): Promise<Prediction>;
    predictBatch(items: BatchItem[], options?: Omit<ItemOptions, "mediaType" | "callbackUrl">): Promise<BatchAnswer>;
    predictAsync(item: Item, options: ItemOptions): Promise<Accepted>;
    prediction(predictionId: string): Promise<PredictionStatus>;
    feedback(feedback: Feedback): Promise<FeedbackAccepted>;
    project(): Promise<ProjectStatus>;
}
