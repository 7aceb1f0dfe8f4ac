// Uploads files with tus-js-client.
//
//     node client.mjs SCENARIO FILE [ARGUMENT...]
//
// The environment has TUS_URL, the URL of the service; TUS_KEY, an API key; and TUS_MODULES, the
// folder in which tus-js-client is installed. Prints one line of JSON: the URL of the upload, and
// the requests that were sent. OPTIONS are options of tus-js-client, as JSON.

import { createReadStream, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename } from 'node:path';
import { PassThrough } from 'node:stream';

const { TUS_URL, TUS_KEY, TUS_MODULES } = process.env;
const tus = createRequire(`${TUS_MODULES}/`)('tus-js-client');

/** The requests so far, in the order in which they were sent. */
const requests = [];

function record(request) {
    const offset = request.getHeader('Upload-Offset');
    // Without an answer, the status stays `null`.
    request.entry = {
        method: request.getMethod(),
        offset: offset === undefined ? null : Number(offset),
        status: null,
    };
    requests.push(request.entry);
}

/** The options of an upload that `more` does not replace. */
function options(file, more = {}) {
    return {
        endpoint: `${TUS_URL}/tus`,
        headers: { Authorization: `Bearer ${TUS_KEY}` },
        metadata: { filename: basename(file) },
        // A test with a broken service must not wait for the default, 9 seconds.
        retryDelays: [200, 500, 500, 500],
        onBeforeRequest: record,
        onAfterResponse: (request, response) => {
            request.entry.status = response.getStatus();
        },
        ...more,
    };
}

/** Sends `source`, and waits until it is stored. `prepare` runs before the upload starts. */
async function send(source, given, prepare = async () => {}) {
    let ended;
    const stored = new Promise((resolve, reject) => {
        ended = { onSuccess: resolve, onError: reject };
    });
    const upload = new tus.Upload(source, { ...given, ...ended });
    await prepare(upload);
    upload.start();
    await stored;
    return upload;
}

/** Sends chunks until the service has `bytes` bytes. Then stops, and terminates the upload if asked to. */
function sendSome(source, given, bytes, terminate) {
    return new Promise((resolve, reject) => {
        const upload = new tus.Upload(source, {
            ...given,
            onChunkComplete: (_, received) => {
                if (received >= bytes) upload.abort(terminate).then(() => resolve(upload), reject);
            },
            onSuccess: () => reject(new Error('the upload was not stopped')),
            onError: reject,
        });
        upload.start();
    });
}

const scenarios = {
    // FILE [OPTIONS]: sends a file.
    send(file, more = '{}') {
        return send(createReadStream(file), options(file, JSON.parse(more)));
    },

    // FILE [OPTIONS]: sends the same content from memory.
    buffer(file, more = '{}') {
        return send(readFileSync(file), options(file, JSON.parse(more)));
    },

    // FILE CHUNK: sends a stream in chunks of this size. Its length is known only at its end.
    stream(file, chunk) {
        // tus-js-client would recognize the stream of a file, and ask for the size of the file.
        const source = createReadStream(file).pipe(new PassThrough());
        return send(source, options(file, { uploadLengthDeferred: true, chunkSize: Number(chunk) }));
    },

    // FILE STORAGE BYTES CHUNK: stops after some bytes. Keeps the URL of the upload in a file.
    stop(file, storage, bytes, chunk) {
        const urlStorage = new tus.FileUrlStorage(storage);
        const given = options(file, { urlStorage, chunkSize: Number(chunk) });
        return sendSome(createReadStream(file), given, Number(bytes), false);
    },

    // FILE STORAGE: continues the upload that another process has stopped.
    resume(file, storage) {
        const given = options(file, { urlStorage: new tus.FileUrlStorage(storage) });
        return send(createReadStream(file), given, async upload => {
            const earlier = await upload.findPreviousUploads();
            if (earlier.length !== 1) throw new Error(`found ${earlier.length} uploads`);
            upload.resumeFromPreviousUpload(earlier[0]);
        });
    },

    // FILE URL [OPTIONS]: continues the upload with this URL, without a key.
    continue(file, uploadUrl, more = '{}') {
        const given = { uploadUrl, endpoint: undefined, headers: {}, ...JSON.parse(more) };
        // If the size is deferred, tus-js-client announces a last chunk of a file that is too long.
        const { uploadLengthDeferred } = given;
        const source = createReadStream(file);
        return send(uploadLengthDeferred ? source.pipe(new PassThrough()) : source, options(file, given));
    },

    // FILE BYTES CHUNK: terminates the upload after some bytes.
    terminate(file, bytes, chunk) {
        const given = options(file, { chunkSize: Number(chunk) });
        return sendSome(createReadStream(file), given, Number(bytes), true);
    },

};

const [scenario, ...rest] = process.argv.slice(2);
try {
    const { url } = await scenarios[scenario](...rest);
    console.log(JSON.stringify({ url, requests }));
} catch (error) {
    // The error itself has the whole request in it.
    console.error(error.message, JSON.stringify(requests));
    process.exit(1);
}
