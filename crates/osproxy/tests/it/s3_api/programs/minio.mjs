// The MinIO client for JavaScript: streams, files, copies, presigned URLs, POST policies and deletion.
// It numbers the parts of its multipart uploads from 2.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';

const { S3_ENDPOINT, OSPROXY_TEST_NPM, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY } = process.env;
const minio = createRequire(`${OSPROXY_TEST_NPM}/`)('minio');

const { hostname, port } = new URL(S3_ENDPOINT);
const client = new minio.Client({
    endPoint: hostname,
    port: Number(port),
    useSSL: false,
    accessKey: AWS_ACCESS_KEY_ID,
    secretKey: AWS_SECRET_ACCESS_KEY,
    partSize: 5 << 20,
});
const bucket = 'minio-js';
const read = async (key) => buffer(await client.getObject(bucket, key));
const large = randomBytes(12_000_000);

await client.makeBucket(bucket);
assert.ok(await client.bucketExists(bucket));

const key = 'a b+%2F/🎞.txt';
await client.putObject(bucket, key, 'hello', 5, { 'Content-Type': 'text/plain', 'X-Amz-Meta-Color': 'blue' });
const found = await client.statObject(bucket, key);
assert.deepEqual([found.size, found.metaData['content-type'], found.metaData.color], [5, 'text/plain', 'blue']);
assert.equal((await read(key)).toString(), 'hello');
assert.equal((await buffer(await client.getPartialObject(bucket, key, 1, 3))).toString(), 'ell');

const chunks = [large.subarray(0, 7_000_000), large.subarray(7_000_000)];
await client.putObject(bucket, 'stream', Readable.from(chunks), large.length);
assert.ok(large.equals(await read('stream')));
await client.putObject(bucket, 'unknown', Readable.from(chunks));
assert.ok(large.equals(await read('unknown')));
writeFileSync('file.bin', large);
await client.fPutObject(bucket, 'file', 'file.bin');
await client.fGetObject(bucket, 'file', 'back.bin');
assert.ok(large.equals(readFileSync('back.bin')));

await client.copyObject(bucket, 'copy', `/${bucket}/stream`);
assert.ok(large.equals(await read('copy')));
await client.composeObject(
    new minio.CopyDestinationOptions({ Bucket: bucket, Object: 'composed' }),
    ['stream', 'file'].map((name) => new minio.CopySourceOptions({ Bucket: bucket, Object: name })),
);
assert.ok(Buffer.concat([large, large]).equals(await read('composed')));
await client.setObjectTagging(bucket, key, { kind: 'test' });
assert.deepEqual(await client.getObjectTagging(bucket, key), [{ Key: 'kind', Value: 'test' }]);

const put = await fetch(await client.presignedPutObject(bucket, 'signed', 600), { method: 'PUT', body: 'signed' });
assert.equal(put.status, 200);
assert.equal(await (await fetch(await client.presignedGetObject(bucket, 'signed', 600))).text(), 'signed');
const policy = client.newPostPolicy();
policy.setBucket(bucket);
policy.setKey('posted');
policy.setExpires(new Date(Date.now() + 600_000));
const { postURL, formData } = await client.presignedPostPolicy(policy);
const form = new FormData();
Object.entries(formData).forEach(([name, value]) => form.append(name, value));
form.append('file', new Blob(['posted']), 'posted.txt');
assert.equal((await fetch(postURL, { method: 'POST', body: form })).status, 204);
assert.equal((await read('posted')).toString(), 'posted');

const names = [];
for await (const { name, prefix } of client.listObjectsV2(bucket)) {
    names.push(name ?? prefix);
}
assert.deepEqual(names.sort(), ['a b+%2F/', 'composed', 'copy', 'file', 'posted', 'signed', 'stream', 'unknown']);
await client.removeObjects(bucket, [key, ...names.slice(1)]);
await assert.rejects(client.statObject(bucket, key), { code: 'NotFound' });
await client.removeBucket(bucket);
