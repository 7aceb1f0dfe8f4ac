// The functions that the plugin of Uppy 5 needs, with URLs that the back end of the guide signs.

import { AwsS3, Uppy } from 'uppy-5/dist/uppy.min.mjs';

async function sign(request) {
    const response = await fetch('/sign', { method: 'POST', body: JSON.stringify(request) });
    return (await response.json()).url;
}

/** Sends a signed request, and returns the document in its answer. */
async function send(method, { key, uploadId }, body) {
    const response = await fetch(await sign({ method, key, uploadId }), { method, body });
    const text = await response.text();
    if (!response.ok) throw new Error(text);
    return new DOMParser().parseFromString(text, 'text/xml');
}

const text = (node, name) => node.querySelector(name).textContent;

const uppy = new Uppy();
uppy.use(AwsS3, {
    shouldUseMultipart: (file) => file.size > 20 * 2 ** 20,
    getChunkSize: () => 8 * 2 ** 20,
    getUploadParameters: async ({ name, type }) => ({
        method: 'PUT',
        fields: {},
        url: await sign({ method: 'PUT', key: name }),
        headers: { 'content-type': type },
    }),
    createMultipartUpload: async ({ name: key }) => ({ key, uploadId: text(await send('POST', { key }), 'UploadId') }),
    signPart: async (file, { key, uploadId, partNumber }) => ({
        url: await sign({ method: 'PUT', key, uploadId, partNumber }),
    }),
    listParts: async (file, upload) =>
        [...(await send('GET', upload)).querySelectorAll('Part')].map((part) => ({
            PartNumber: Number(text(part, 'PartNumber')),
            Size: Number(text(part, 'Size')),
            ETag: text(part, 'ETag'),
        })),
    completeMultipartUpload: async (file, { parts, ...upload }) => {
        const list = parts.map(
            ({ PartNumber, ETag }) => `<Part><PartNumber>${PartNumber}</PartNumber><ETag>${ETag}</ETag></Part>`,
        );
        const body = `<CompleteMultipartUpload>${list.join('')}</CompleteMultipartUpload>`;
        return { location: text(await send('POST', upload, body), 'Location') };
    },
    abortMultipartUpload: (file, upload) => send('DELETE', upload),
});
