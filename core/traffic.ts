/** What counts its own bytes; a `net.Socket` does, also once it is closed. */
interface CountedSocket {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  once(event: "close", listener: () => void): unknown;
}

/** Bytes that connections have sent and received, TLS and its handshakes included, TCP and IP not. */
export class Traffic {
  readonly #open = new Set<CountedSocket>();
  #sent = 0;
  #received = 0;

  count(socket: CountedSocket): void {
    this.#open.add(socket);
    socket.once("close", () => {
      this.#open.delete(socket);
      this.#sent += socket.bytesWritten;
      this.#received += socket.bytesRead;
    });
  }

  get sentBytes(): number {
    return [...this.#open].reduce((sum, { bytesWritten }) => sum + bytesWritten, this.#sent);
  }

  get receivedBytes(): number {
    return [...this.#open].reduce((sum, { bytesRead }) => sum + bytesRead, this.#received);
  }
}
