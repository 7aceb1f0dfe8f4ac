// The AWS SDK for JavaScript with its defaults, which send and verify checksums, and `Upload` of lib-storage.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';

const { S3_ENDPOINT, OSPROXY_TEST_NPM } = process.env;
const require = createRequire(`${OSPROXY_TEST_NPM}/`);
const s3 = require('@aws-sdk/client-s3');
const { Upload } = require('@aws-sdk/lib-storage');
const { getSignedUrl } = require('@aws-sdk/s3-request-presigner');

const client = new s3.S3Client({ endpoint: S3_ENDPOINT, region: 'us-east-1', forcePathStyle: true });
const Bucket = 'sdk-js';
const send = (name, input = {}) => client.send(new s3[`${name}Command`]({ Bucket, ...input }));
const read = async (input) => Buffer.from(await (await send('GetObject', input)).Body.transformToByteArray());
const large = randomBytes(18_000_000);

await send('CreateBucket');
await send('HeadBucket');

const Key = 'a b+%2F/🎞.txt';
const put = await send('PutObject', { Key, Body: 'hello', ContentType: 'text/plain', Metadata: { color: 'blue' } });
assert.ok(put.ChecksumCRC32);
const head = await send('HeadObject', { Key, ChecksumMode: 'ENABLED' });
assert.deepEqual(
    [head.ContentLength, head.ContentType, head.Metadata, head.ETag, head.ChecksumCRC32],
    [5, 'text/plain', { color: 'blue' }, put.ETag, put.ChecksumCRC32],
);
assert.equal((await read({ Key })).toString(), 'hello');
assert.equal((await read({ Key, Range: 'bytes=1-3' })).toString(), 'ell');
for (const ChecksumAlgorithm of ['CRC32', 'CRC32C', 'SHA1', 'SHA256']) {
    await send('PutObject', { Key: 'sum', Body: large, ChecksumAlgorithm });
    assert.ok(large.equals(await read({ Key: 'sum' })), ChecksumAlgorithm);
}

// A body in aws-chunked, whose checksum is in the trailer.
await send('PutObject', { Key: 'stream', Body: Readable.from([large]), ContentLength: large.length });
assert.ok(large.equals(await read({ Key: 'stream' })));

// Streams of unknown length, shorter and longer than a part.
const half = 9_000_000;
const chunks = [large.subarray(0, 10), large.subarray(10, half), large.subarray(half)];
for (const [body, chunked] of [
    [large, chunks],
    [large.subarray(0, 10), [chunks[0]]],
    [Buffer.alloc(0), []],
]) {
    const params = { Bucket, Key: 'unknown', Body: Readable.from(chunked), ContentType: 'image/png' };
    await new Upload({ client, params, queueSize: 3 }).done();
    assert.ok(body.equals(await read({ Key: 'unknown' })), body.length);
    assert.equal((await send('HeadObject', { Key: 'unknown' })).ContentType, 'image/png');
}
await new Upload({ client, params: { Bucket, Key: 'buffer', Body: large }, partSize: 5 << 20 }).done();
assert.ok(large.equals(await read({ Key: 'buffer' })));

// An upload that is aborted leaves nothing.
const aborted = new Upload({ client, params: { Bucket, Key: 'aborted', Body: large }, partSize: 5 << 20 });
aborted.on('httpUploadProgress', () => aborted.abort());
await assert.rejects(aborted.done(), { name: 'AbortError' });
// The client sends the abortion after it has rejected the promise.
for (let tries = 0; (await send('ListMultipartUploads')).Uploads; tries++) {
    assert.ok(tries < 1000);
}

await send('CopyObject', { Key: 'copy', CopySource: `${Bucket}/${encodeURIComponent(Key)}` });
assert.equal((await read({ Key: 'copy' })).toString(), 'hello');
await assert.rejects(send('PutObject', { Key, Body: 'x', IfNoneMatch: '*' }), { name: 'PreconditionFailed' });
const url = await getSignedUrl(client, new s3.GetObjectCommand({ Bucket, Key }));
assert.equal(await (await fetch(url)).text(), 'hello');

const names = [];
for await (const page of s3.paginateListObjectsV2({ client, pageSize: 2 }, { Bucket })) {
    names.push(...page.Contents.map((one) => one.Key));
}
assert.deepEqual(names, [Key, 'buffer', 'copy', 'stream', 'sum', 'unknown']);
const deleted = await send('DeleteObjects', { Delete: { Objects: names.map((name) => ({ Key: name })) } });
assert.equal(deleted.Deleted.length, names.length);
await assert.rejects(read({ Key }), { name: 'NoSuchKey' });
await send('DeleteBucket');
