// The camera: to the server by WebRTC and back.

const CAMERA = { video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } } };
const BITRATE = 6_000_000; // the way is short
const PATIENCE = 20_000; // ms until the server's answer has led to a picture

export class Live {
  #camera;
  #socket;
  #peer;
  #timer;
  #ended = false;
  #events;

  // events: onCamera(stream), onResult(stream), onStatistics(numbers), onError(message), onEnd()
  constructor(events) {
    this.#events = events;
  }

  async start(settings) {
    try {
      this.#camera = await navigator.mediaDevices.getUserMedia(CAMERA);
    } catch (error) {
      return this.#fail(`The camera cannot be used: ${error.message}`);
    }
    if (this.#ended) return this.stop();
    const [track] = this.#camera.getVideoTracks();
    track.onended = () => this.#fail("The camera was disconnected.");
    this.#events.onCamera(this.#camera);
    this.#timer = setTimeout(
      () => this.#fail("This browser cannot reach 127.0.0.1 by WebRTC; try Chrome or Chromium."),
      PATIENCE,
    );
    this.#socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
    this.#socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    this.#socket.onclose = () => this.#fail("The server ended the connection.");
    this.#socket.onopen = () =>
      this.#offer(track, settings).catch((error) => this.#fail(`WebRTC: ${error.message}`));
  }

  set(settings) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#send({ type: "settings", ...settings });
  }

  // what: keep, drop or everybody; place: x and y as shares of the picture.
  choose(what, place = {}) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#send({ type: what, ...place });
  }

  stop() {
    clearTimeout(this.#timer);
    this.#camera?.getTracks().forEach((track) => track.stop());
    this.#peer?.close();
    if (this.#socket) {
      this.#socket.onclose = this.#socket.onmessage = this.#socket.onopen = null;
      this.#socket.close();
    }
    if (!this.#ended) {
      this.#ended = true;
      this.#events.onEnd();
    }
  }

  async #offer(track, settings) {
    const peer = (this.#peer = new RTCPeerConnection());
    peer.ontrack = (event) => this.#events.onResult(new MediaStream([event.track]));
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "connected") clearTimeout(this.#timer);
    };
    const { sender } = peer.addTransceiver(track, {
      streams: [this.#camera],
      sendEncodings: [{ maxBitrate: BITRATE }],
    });
    await peer.setLocalDescription();
    const parameters = sender.getParameters();
    parameters.degradationPreference = "maintain-resolution";
    await sender.setParameters(parameters).catch(() => {}); // a wish that not all browsers know
    await gathered(peer);
    this.#send({ type: "offer", sdp: peer.localDescription.sdp, ...settings });
  }

  async #receive(message) {
    if (message.type === "answer") {
      await this.#peer.setRemoteDescription({ type: "answer", sdp: hurry(message.sdp) });
    } else if (message.type === "statistics") {
      this.#events.onStatistics(message);
    } else {
      this.#events.onError(message.message);
    }
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #fail(message) {
    if (this.#ended) return;
    this.stop();
    this.#events.onError(message);
  }
}

function gathered(peer) {
  return new Promise((resolve) => {
    const look = () => peer.iceGatheringState === "complete" && resolve();
    peer.onicegatheringstatechange = look;
    look();
  });
}

// Chromium begins at a telephone's bit rate and takes many seconds to find out that there is more.
function hurry(sdp) {
  return sdp.replace(
    /^a=rtpmap:(\d+) VP8\/90000\r\n/m,
    `$&a=fmtp:$1 x-google-start-bitrate=${BITRATE / 2000}\r\n`,
  );
}
