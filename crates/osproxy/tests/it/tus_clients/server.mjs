// Runs @tus/server, which keeps its uploads in a folder, until it is killed.
//
//     node server.mjs FOLDER
//
// The environment has TUS_MODULES, the folder in which @tus/server is installed. Prints the address.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { resolve } = createRequire(`${process.env.TUS_MODULES}/`);
const load = (name) => import(pathToFileURL(resolve(name)));
const { Server } = await load('@tus/server');
const { FileStore } = await load('@tus/file-store');

const datastore = new FileStore({ directory: process.argv[2] });
// Without a maximum, it announces none.
const server = new Server({ path: '/files', datastore, maxSize: 2 ** 30 });
const listener = server.listen({ host: '127.0.0.1', port: 0 }, () => {
    console.log(`127.0.0.1:${listener.address().port}`);
});
