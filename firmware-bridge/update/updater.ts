import { compareVersions } from "../../core/compare-versions.js";
import { backoff } from "../../core/backoff.js";
import type { Clock } from "../../core/clock.js";
import { CommandRefused } from "../../core/command-errors.js";
import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { ChildSignal, type Disposable, Scope } from "../../core/scope.js";
import { FlashRefused, type FlashTarget, type Slot } from "./flash-target.js";
import { ManifestRefused, openManifest, type SignedManifest } from "./manifest.js";
import {
  sha256Of,
  UPDATE_ENDS,
  type UpdateEnd,
  type UpdateMemory,
  type UpdateState,
  type UpdateStep,
  type UpdateStore,
} from "./update-store.js";

export interface UpdaterOptions {
  /** The driver's id, as manifests name it. */
  readonly target: string;
  /** What the board calls its hardware. */
  readonly hardware: string;
  /** Ed25519 keys that may sign firmware. */
  readonly publicKeys: readonly Uint8Array[];
  readonly store: UpdateStore;
  /** Suspends whoever else uses the port until it is disposed. */
  readonly lease: (signal: AbortSignal) => Promise<Disposable>;
  /** Reaches the board; fails while it is away. */
  readonly openTarget: (signal: AbortSignal) => Promise<FlashTarget>;
  /** A command that a good firmware passes. */
  readonly selfTest?: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

export interface UpdateStatus extends Pick<
  UpdateState,
  "step" | "version" | "counter" | "size" | "previousVersion" | "startedMs" | "reason"
> {
  /** Of the image, here. */
  readonly receivedBytes: number;
  /** Of the image, on the board, as far as this run of the agent knows. */
  readonly uploadedBytes: number;
}

/** Steps that wait for somebody else. */
const RESTING: ReadonlySet<UpdateStep> = new Set(["receiving", ...UPDATE_ENDS]);
/** How long a new firmware may take to come back, link and pass its self-test, before it is reset. */
const PROBE_MS = 60_000;
/** Until here nothing has changed for the board: another image may take this one's place. */
const REPLACEABLE: ReadonlySet<UpdateStep> = new Set(["received", "verified", "leased"]);
const RESET_PAUSE_MS = 300;
const NOT_OURS = "the board tries an image with another hash";

/**
 * Brings one board to one image, or back: received, verified, leased, uploaded, tested, probed, confirmed. Each step is
 * stored before the next begins and may be repeated, so that whatever is killed or cut at any point, the board runs the
 * old or the new firmware, and the end is told.
 */
export class Updater {
  readonly #options: UpdaterOptions;
  #memory: UpdateMemory;
  /** The run that is carrying an update on. */
  #running: Promise<void> | undefined;
  #abandon: (() => void) | undefined;
  #probeEndMs: number | undefined;
  #uploadedBytes = 0;

  private constructor(options: UpdaterOptions, memory: UpdateMemory) {
    this.#options = options;
    this.#memory = memory;
  }

  static async open(options: UpdaterOptions): Promise<Updater> {
    return new Updater(options, await options.store.load());
  }

  /** An update waits to be carried on by {@link run}. */
  isUnderWay(): boolean {
    const { update } = this.#memory;
    return update !== undefined && !RESTING.has(update.step);
  }

  async status(): Promise<{ readonly floor: number; readonly update?: UpdateStatus }> {
    const { floor, update } = this.#memory;
    if (!update) return { floor };
    const { step, version, counter, size, previousVersion, startedMs, reason } = update;
    const received = RESTING.has(step) && step !== "receiving" ? size : await this.#options.store.imageBytes();
    const bytes = { receivedBytes: received, uploadedBytes: this.#uploadedBytes };
    return { floor, update: { step, version, counter, size, previousVersion, startedMs, reason, ...bytes } };
  }

  /**
   * Begins to take an image, or goes on after a cut; gives the offset to send from.
   *
   * @throws {ManifestRefused} and {CommandRefused} when the board has begun with another one.
   */
  async begin(signed: SignedManifest): Promise<number> {
    const manifest = openManifest(signed, this.#options.publicKeys);
    const { target, hardware, store, clock } = this.#options;
    if (manifest.target !== target) throw new ManifestRefused(`the image is for ${manifest.target}, not for ${target}`);
    if (manifest.hardware !== hardware) {
      throw new ManifestRefused(`the image is for ${manifest.hardware}, and the board is a ${hardware}`);
    }
    if (manifest.counter < this.#memory.floor) {
      throw new ManifestRefused(
        `the image's counter ${manifest.counter} is below the sealed floor ${this.#memory.floor}`,
      );
    }
    const current = this.#memory.update;
    const isSame = current?.manifest?.signed === signed.signed;
    if (isSame && current.step === "receiving") return store.imageBytes();
    if (isSame && this.isUnderWay()) return manifest.size; // it is all here, and goes on
    if (REPLACEABLE.has(current?.step ?? "receiving")) await this.#stop();
    else await this.#ended();
    const { version, counter, size, sha256 } = manifest;
    await store.removeImage();
    this.#uploadedBytes = 0;
    await this.#store({ step: "receiving", manifest: signed, version, counter, size, sha256, startedMs: clock.now() });
    return 0;
  }

  /** Adds a piece; gives the next offset. When the image is whole, {@link run} takes it on. */
  async data(offset: number, bytes: Uint8Array): Promise<number> {
    const update = this.#memory.update;
    if (update?.step !== "receiving") throw new CommandRefused("no image is being received");
    if (offset + bytes.length > update.size) throw new CommandRefused("more bytes than the manifest says");
    const next = await this.#options.store.append(offset, bytes);
    if (next >= update.size) await this.#step("received");
    return next;
  }

  /**
   * Goes back to the image that ran before the last update.
   *
   * @throws {CommandRefused} when there is none, or it is below the floor.
   */
  async rollback(): Promise<void> {
    await this.#ended();
    const { update, installed, floor } = this.#memory;
    if (update?.step !== "confirmed" || !update.previousHash)
      throw new CommandRefused("there is no update to go back from");
    const counter = installed.find(({ hash }) => hash === update.previousHash)?.counter ?? 0;
    if (counter < floor)
      throw new CommandRefused(`version ${update.previousVersion} is below the sealed floor ${floor}`);
    await this.#store({
      step: "uploaded",
      version: update.previousVersion ?? "",
      counter,
      size: 0,
      sha256: "",
      hash: update.previousHash,
      previousHash: update.hash,
      previousVersion: update.version,
      startedMs: this.#options.clock.now(),
    });
  }

  /** Raises the floor to the counter of the confirmed image: nothing older is installed any more. */
  async seal(): Promise<number> {
    await this.#ended();
    const { update } = this.#memory;
    if (update?.step !== "confirmed") throw new CommandRefused("the last update is not confirmed");
    this.#memory = { ...this.#memory, floor: Math.max(this.#memory.floor, update.counter) };
    await this.#options.store.save(this.#memory);
    return this.#memory.floor;
  }

  /** Carries an update on until its end, for as long as it takes. Returns at once when there is none. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.#running || !this.isUnderWay()) return;
    await using child = new ChildSignal(signal);
    let isAbandoned = false;
    this.#abandon = () => {
      isAbandoned = true;
      child.abort(new CommandRefused("another image takes its place"));
    };
    this.#running = this.#carryOn(child.signal).catch((error: unknown) => {
      if (!isAbandoned) throw error;
    });
    try {
      await this.#running;
    } finally {
      this.#running = undefined;
      this.#abandon = undefined;
    }
  }

  /** Ends the run in the middle, unless it has gone further meanwhile. */
  async #stop(): Promise<void> {
    this.#abandon?.();
    await this.#running?.catch(() => undefined);
    if (!REPLACEABLE.has(this.#memory.update?.step ?? "receiving")) await this.#ended();
  }

  async #carryOn(signal: AbortSignal): Promise<void> {
    // Kept until the end: between two attempts nobody else may talk to a board that is half-way.
    await using held = new Scope();
    let isLeased = false;
    const lease = async (): Promise<void> => {
      if (!isLeased) held.use(await this.#options.lease(signal));
      isLeased = true;
    };
    for (const waitMs of backoff({ firstMs: 200, maxMs: 5000 })) {
      const reason = await this.#attempt(lease, signal);
      if (!this.isUnderWay()) return;
      await this.#options.clock.sleep(Math.max(50, waitMs), signal);
      if (reason) this.#options.log.debug({ reason }, "firmware update goes on");
    }
  }

  /** The update before has ended for those who ask, but its last file may not be gone yet. */
  async #ended(): Promise<void> {
    if (this.isUnderWay()) throw new CommandRefused("another update is under way");
    await this.#running?.catch(() => undefined);
  }

  /** Goes as far as it can; gives what stopped it. */
  async #attempt(lease: () => Promise<void>, signal: AbortSignal): Promise<string | undefined> {
    try {
      if (this.#update.step === "received") await this.#verify();
      if (!this.isUnderWay()) return undefined;
      await lease();
      if (this.#update.step === "verified") await this.#step("leased");
      await using target = await this.#options.openTarget(signal);
      await this.#withTarget(target, signal);
      return undefined;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof EdgeError)) throw error;
      if (error instanceof ManifestRefused || error instanceof FlashRefused) await this.#refused(error);
      return error.message;
    }
  }

  get #update(): UpdateState {
    if (!this.#memory.update) throw new Error("there is no update");
    return this.#memory.update;
  }

  async #verify(): Promise<void> {
    const { manifest } = this.#update;
    if (!manifest) throw new Error("an update that was received has a manifest");
    openManifest(manifest, this.#options.publicKeys); // the key may have been withdrawn meanwhile
    await this.#image();
    await this.#step("verified");
  }

  /** The image as the manifest says; checked each time it is read, since disks rot and files are written over. */
  async #image(): Promise<Uint8Array> {
    const { sha256, size } = this.#update;
    const image = await this.#options.store.image();
    if (image.length !== size || sha256Of(image) !== sha256)
      throw new ManifestRefused("the image's SHA-256 differs from its manifest's");
    return image;
  }

  async #withTarget(target: FlashTarget, signal: AbortSignal): Promise<void> {
    if (this.#update.step === "leased") await this.#upload(target, signal);
    if (this.#update.step === "uploaded") await this.#test(target, signal);
    else if (this.#update.step === "tested") await this.#probe(target, signal);
    if (this.#update.step === "probed") await this.#confirm(target, signal);
    if (this.#update.step === "reverting") await this.#revert(target, signal);
  }

  async #upload(target: FlashTarget, signal: AbortSignal): Promise<void> {
    const image = await this.#image();
    const hash = hexOf(target.hashOf(image));
    const active = activeOf(await target.slots(signal));
    const { manifest } = this.#update;
    const minVersion = manifest && openManifest(manifest, this.#options.publicKeys).minVersion;
    if (minVersion !== undefined && compareVersions(active?.version ?? "0", minVersion) < 0) {
      throw new ManifestRefused(
        `the board runs ${active?.version ?? "nothing"}, and the image needs ${minVersion} first`,
      );
    }
    if (active && hexOf(active.hash) === hash && active.confirmed) {
      await this.#end("confirmed", "the board runs this image already", { hash });
      return;
    }
    await target.upload(image, (bytes) => (this.#uploadedBytes = bytes), signal);
    await this.#step("uploaded", {
      hash,
      ...(active ? { previousHash: hexOf(active.hash), previousVersion: active.version } : {}),
    });
  }

  async #test(target: FlashTarget, signal: AbortSignal): Promise<void> {
    const active = activeOf(await target.slots(signal));
    if (active && hexOf(active.hash) === this.#update.hash) {
      await this.#step("tested"); // it was told before we were cut off, and has restarted since
      return;
    }
    await target.test(this.#hash, signal);
    await this.#step("tested");
    await this.#reset(target, signal);
  }

  async #reset(target: FlashTarget, signal: AbortSignal): Promise<void> {
    this.#probeEndMs = undefined;
    await target.reset(signal);
    await this.#options.clock.sleep(RESET_PAUSE_MS, signal);
  }

  async #probe(target: FlashTarget, signal: AbortSignal): Promise<void> {
    const slots = await target.slots(signal);
    const active = activeOf(slots);
    if (!active || hexOf(active.hash) !== this.#update.hash) {
      const pending = slots.some(({ hash, pending: waits }) => waits && hexOf(hash) === this.#update.hash);
      if (pending) await this.#reset(target, signal);
      else if (active && !active.confirmed) await this.#step("reverting", { reason: NOT_OURS });
      else await this.#end("reverted", "the new firmware did not stay up; the board went back by itself");
      return;
    }
    const fault = await this.#faultOf(active, target, signal);
    if (fault === undefined) await this.#step("probed");
    else await this.#step("reverting", { reason: fault });
  }

  /** What is wrong with the new firmware; a fault that may pass is thrown until the time for it is over. */
  async #faultOf(active: Slot, target: FlashTarget, signal: AbortSignal): Promise<string | undefined> {
    const { version, manifest } = this.#update;
    const { selfTest, clock } = this.#options;
    if (manifest && active.version !== version)
      return `the board says version ${active.version}, the manifest ${version}`;
    if (selfTest === undefined || !target.selfTest) return undefined;
    this.#probeEndMs ??= clock.monotonicMs() + PROBE_MS;
    try {
      await target.selfTest(selfTest, signal);
      return undefined;
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof CommandRefused) return `the self-test failed: ${error.message}`;
      if (clock.monotonicMs() > this.#probeEndMs) return "the self-test gave no answer";
      throw error;
    }
  }

  async #confirm(target: FlashTarget, signal: AbortSignal): Promise<void> {
    const active = activeOf(await target.slots(signal));
    if (active && hexOf(active.hash) === this.#update.hash) {
      if (!active.confirmed) await target.confirm(this.#hash, signal);
      await this.#end("confirmed");
    } else if (active && !active.confirmed) {
      await this.#step("reverting", { reason: NOT_OURS });
    } else {
      await this.#end("reverted", "the board went back before the new firmware was confirmed");
    }
  }

  async #revert(target: FlashTarget, signal: AbortSignal): Promise<void> {
    const active = activeOf(await target.slots(signal));
    const { hash, reason } = this.#update;
    if (active && !active.confirmed) await this.#reset(target, signal);
    else if (!active || hexOf(active.hash) !== hash) await this.#end("reverted", reason);
    else await this.#end("confirmed", `${reason ?? "it is faulty"}; there is no image to go back to`);
  }

  get #hash(): Uint8Array {
    return Buffer.from(this.#update.hash ?? "", "hex");
  }

  /** The board or the manifest said no. Before the test nothing has changed on the board; after it the board decides. */
  async #refused(error: EdgeError): Promise<void> {
    const { step } = this.#update;
    if (step === "tested" || step === "probed") await this.#step("reverting", { reason: error.message });
    else if (step !== "reverting") await this.#end("rejected", error.message);
  }

  async #step(step: UpdateStep, more: Partial<UpdateState> = {}): Promise<void> {
    await this.#store({ ...this.#update, ...more, step });
  }

  async #end(step: UpdateEnd, reason?: string, more: Partial<UpdateState> = {}): Promise<void> {
    const ended: UpdateState = { ...this.#update, ...more, step, reason };
    const { hash, version, counter } = ended;
    const others = this.#memory.installed.filter((entry) => entry.hash !== hash).slice(-7);
    const installed = step === "confirmed" && hash ? [...others, { hash, version, counter }] : this.#memory.installed;
    this.#memory = { ...this.#memory, installed };
    await this.#store(ended);
    await this.#options.store.removeImage();
  }

  async #store(update: UpdateState): Promise<void> {
    const { store, log } = this.#options;
    this.#memory = { ...this.#memory, update };
    await store.save(this.#memory);
    log.info({ step: update.step, version: update.version, reason: update.reason }, "firmware update");
  }
}

const activeOf = (slots: readonly Slot[]): Slot | undefined => slots.find(({ active }) => active);
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
