import { setTimeout as sleep } from "node:timers/promises";
import { PtyDevice } from "../fixtures/pty-device.js";
import { newFlash, SmpBoard, type SmpBoardOptions, type SmpFlash } from "./smp-board.js";

/** An SMP board on a real pty, which also prints numbered JSON lines on its console, as an application does. */
export class SmpPtyBoard implements AsyncDisposable {
  readonly flash: SmpFlash = newFlash();
  readonly #device: PtyDevice;
  readonly #options: SmpBoardOptions;
  readonly #stop = new AbortController();
  readonly #life: Promise<void>;
  readonly #talk: NodeJS.Timeout;
  #board: SmpBoard;
  boots = 1;
  /** The last number printed. */
  printed = 0;

  private constructor(device: PtyDevice, everyMs: number, options: SmpBoardOptions) {
    this.#device = device;
    this.#options = options;
    this.#board = new SmpBoard(this.flash, options);
    device.onBytes = (chunk) => void this.#board.write(chunk).catch(() => undefined);
    this.#life = this.#live();
    this.#talk = setInterval(() => device.say(JSON.stringify({ n: ++this.printed })), everyMs);
  }

  static async open(everyMs: number, options: SmpBoardOptions = {}): Promise<SmpPtyBoard> {
    return new SmpPtyBoard(await PtyDevice.open(), everyMs, options);
  }

  get path(): string {
    return this.#device.path;
  }

  /** The version that runs, and whether it stays. */
  get running(): { readonly version: string; readonly confirmed: boolean } {
    const { slots, active, confirmed } = this.flash;
    return { version: slots[active]?.version ?? "none", confirmed };
  }

  async #live(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      // In whole lines: the application's own come in between.
      for await (const chunk of this.#board.read(signal)) this.#device.send(chunk);
      if (signal.aborted) return;
      await sleep(100);
      this.#board = new SmpBoard(this.flash, this.#options);
      this.boots += 1;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#talk);
    this.#stop.abort();
    await this.#board[Symbol.asyncDispose]();
    await this.#life;
    await this.#device[Symbol.asyncDispose]();
  }
}
