// Speaks turns with Node's `ws` as an agent of one's own would: one socket, kept open, one turn after the other.
// The lines are those of turns.py. Usage: node node_turns.cjs ws3|ws2|ws-binary|v1|v1-json ADDRESS
'use strict';

const readline = require('node:readline');
const { once } = require('node:events');
const WebSocket = require('ws');

const RATE = 24000;
const [transport, address] = process.argv.slice(2);

// The fields of a protobuf message, all of which have a length.
function fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const found = {};
  while (at < bytes.length) {
    const name = number() >> 3;
    const length = number();
    found[name] = bytes.subarray(at, at + length);
    at += length;
  }
  return found;
}

const say = (socket, ...messages) => messages.forEach((message) => socket.send(JSON.stringify(message)));
const legacy = (path) => new WebSocket(`ws://${address}/${path}?modelId=coda&speaker=astra&audioFormat=pcm&samplingRate=${RATE}`);

const json = (path) => ({
  open: () => legacy(path),
  begin: (socket, contextId, text) => say(socket, { text, contextId }, { operation: 'flush' }),
  stop: (socket) => say(socket, { operation: 'clear' }),
  // Of a `clear` before the first audio nothing is told.
  stopsInSilence: true,
  read: (data) => {
    const { type, contextId, message, data: audio } = JSON.parse(data);
    return {
      contextId,
      audio: type === 'chunk' ? Buffer.from(audio, 'base64') : undefined,
      error: type === 'error' ? message : undefined,
      over: type === 'done',
    };
  },
});

const v1 = (protocol, read) => ({
  open: () => new WebSocket(`ws://${address}/ws`, protocol, { headers: { authorization: 'Bearer none' } }),
  // A frame's type tells how it is written, so that JSON may be said whatever is answered.
  begin: (socket, contextId, text) => {
    const audioParameters = { audioFormat: 'audio/pcm', samplingRate: RATE };
    const start = { speaker: 'astra', language: 'en', audioParameters };
    say(socket, { contextId, start }, { contextId, text }, { contextId, end: {} });
  },
  stop: (socket, contextId) => say(socket, { contextId, cancel: {} }),
  read,
});

// How a turn is begun and stopped on each transport, and what the engine's messages mean.
const wires = {
  ws3: json('ws3'),
  ws2: json('ws2'),
  'ws-binary': {
    open: () => legacy('ws'),
    begin: (socket, _, text) => [text, '<EOS>'].forEach((message) => socket.send(message)),
    // Nothing but its end tells that a turn is over, on either side.
    stop: (socket) => socket.close(1000),
    closes: true,
    read: (audio, contextId) => ({ contextId, audio }),
  },
  'v1-json': v1('rime.v1.json', (data) => {
    const { contextId, audio, done, cancelled, error } = JSON.parse(data);
    return {
      contextId,
      audio: audio && Buffer.from(audio, 'base64'),
      error: error?.message,
      over: Boolean(done ?? cancelled ?? error),
    };
  }),
  v1: v1('rime.v1.binary', (data) => {
    const { 1: contextId, 4: audio, 5: done, 6: cancelled, 7: error } = fields(data);
    return {
      contextId: contextId?.toString(),
      audio,
      error: error && fields(error)[2].toString(),
      over: Boolean(done ?? cancelled ?? error),
    };
  }),
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
  const turn = { over: undefined, heard: undefined };
  turn.heard = new Promise((resolve) => {
    turn.over = (error) => {
      if (error) heard.errors.push(error);
      socket.removeAllListeners();
      // An error without a listener would end the process.
      socket.on('error', () => {});
      resolve(heard);
    };
    socket.on('error', (error) => turn.over(String(error)));
    socket.on('close', (code) => turn.over(wire.closes && code === 1000 ? undefined : `closed: ${code}`));
    socket.on('message', (data) => {
      const said = wire.read(data, contextId);
      if (said.contextId !== contextId) return;
      if (said.audio !== undefined) {
        heard.frames += 1;
        heard.seconds += said.audio.length / (2 * RATE);
        if (heard.frames === 1) console.log('audio');
        if (interrupt && heard.frames === 1) wire.stop(socket, contextId);
      }
      if (said.error) heard.errors.push(said.error);
      if (said.over) turn.over();
    });
    wire.begin(socket, contextId, text);
  });
  return turn;
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
    const turn = spoken(socket, contextId, words.join(' '), verb === 'interrupt');
    if (verb === 'leave') {
      await lines.next();
      wire.stop(socket, contextId);
      if (wire.stopsInSilence) turn.over();
    }
    console.log(JSON.stringify(await turn.heard));
  }
  socket.close();
}

main();
