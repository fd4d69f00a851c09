// Speaks turns with Node's `ws` as an agent of one's own would: one socket, kept open, one turn after the other.
// The lines are those of turns.py. Usage: node node_turns.cjs ws3|v1-json ADDRESS
'use strict';

const readline = require('node:readline');
const { once } = require('node:events');
const WebSocket = require('ws');

const RATE = 24000;
const [transport, address] = process.argv.slice(2);

// What a turn consists of, and what an engine's message means, on each transport.
const wires = {
  ws3: {
    open: () => new WebSocket(`ws://${address}/ws3?modelId=coda&speaker=astra&audioFormat=pcm&samplingRate=${RATE}`),
    turn: (contextId, text) => [{ text, contextId }, { operation: 'flush' }],
    stop: () => ({ operation: 'clear' }),
    read: (message) => ({
      contextId: message.contextId,
      audio: message.type === 'chunk' ? message.data : undefined,
      error: message.type === 'error' ? message.message : undefined,
      over: message.type === 'done',
    }),
  },
  'v1-json': {
    open: () => new WebSocket(`ws://${address}/ws`, 'rime.v1.json', { headers: { authorization: 'Bearer none' } }),
    turn: (contextId, text) => [
      {
        contextId,
        start: { speaker: 'astra', language: 'en', audioParameters: { audioFormat: 'audio/pcm', samplingRate: RATE } },
      },
      { contextId, text },
      { contextId, end: {} },
    ],
    stop: (contextId) => ({ contextId, cancel: {} }),
    read: (message) => ({
      contextId: message.contextId,
      audio: message.audio,
      error: message.error?.message,
      over: Boolean(message.done ?? message.cancelled ?? message.error),
    }),
  },
};
const wire = wires[transport];

async function opened() {
  const socket = wire.open();
  await once(socket, 'open');
  return socket;
}

// A turn to its end: the engine's last word on it, or the end of the socket.
function spoken(socket, contextId, text, interrupt) {
  const heard = { frames: 0, seconds: 0, errors: [], status: null, usable: true };
  return new Promise((resolve) => {
    const over = (error) => {
      if (error) heard.errors.push(error);
      socket.removeAllListeners();
      // An error without a listener would end the process.
      socket.on('error', () => {});
      resolve(heard);
    };
    socket.on('error', (error) => over(String(error)));
    socket.on('close', (code) => over(`closed: ${code}`));
    socket.on('message', (data) => {
      const said = wire.read(JSON.parse(data));
      if (said.contextId !== contextId) return;
      if (said.audio !== undefined) {
        heard.frames += 1;
        heard.seconds += Buffer.from(said.audio, 'base64').length / (2 * RATE);
        if (interrupt && heard.frames === 1) socket.send(JSON.stringify(wire.stop(contextId)));
      }
      if (said.error) heard.errors.push(said.error);
      if (said.over) over();
    });
    for (const message of wire.turn(contextId, text)) socket.send(JSON.stringify(message));
  });
}

async function main() {
  let socket = await opened();
  // `ws` offers to compress; whoever reads frames on the way must not let that be agreed on.
  if (socket.extensions !== '') throw new Error(`agreed on ${socket.extensions}`);
  console.log('ready');
  let turns = 0;
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const [verb, ...words] = line.value.split(' ');
    if (socket.readyState !== WebSocket.OPEN) socket = await opened();
    turns += 1;
    const contextId = `turn ${turns}`;
    const heard = spoken(socket, contextId, words.join(' '), verb === 'interrupt');
    if (verb === 'leave') {
      await lines.next();
      socket.send(JSON.stringify(wire.stop(contextId)));
    }
    console.log(JSON.stringify(await heard));
  }
  socket.close();
}

main();
