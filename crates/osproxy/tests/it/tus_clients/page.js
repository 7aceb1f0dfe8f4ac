// What the pages share.

/** The requests so far, in the order in which they were sent. */
const requests = [];

function record(request) {
    const offset = request.getHeader('Upload-Offset');
    requests.push({ method: request.getMethod(), offset: offset === undefined ? null : Number(offset) });
}

function say(text) {
    document.getElementById('state').innerText = text;
}

/** A file of `size` bytes. In its block `n` of 1 MiB, every word of 4 bytes is the number `n`. */
function madeFile(name, size) {
    const block = 1 << 20;
    const blocks = [];
    for (let at = 0; at < size; at += block) {
        const words = new Uint32Array(block / 4).fill(at / block);
        // A Blob may be kept on disk, an array only in memory.
        blocks.push(new Blob([new Uint8Array(words.buffer, 0, Math.min(block, size - at))]));
    }
    // After the page was loaded again, this must be the same file, with the same time.
    return new File(blocks, name, { type: 'application/octet-stream', lastModified: 1 });
}
