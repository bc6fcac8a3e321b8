// Answers with the length of what it was sent, which a worker thread counted.
const { createServer } = require('http');
const { Worker } = require('worker_threads');
const count = 'const { parentPort, workerData } = require("worker_threads"); parentPort.postMessage(workerData.length)';

createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => new Worker(count, { eval: true, workerData: Buffer.concat(chunks) })
        .on('message', (length) => response.end(`node answers ${length}\n`)));
}).listen(3000, '127.0.0.1', () => console.log('node is up'));
