import { createInterface } from "node:readline/promises";
import { holdsEverything } from "../agent/keys/manager-keys.js";
import type { AtClient } from "../atplatform/client/at-client.js";
import type { Enrollment, Enrollments } from "../atplatform/client/enrollments.js";
import { codeOf } from "../core/errors.js";
import { parseFingerprint } from "../messages/pins.js";
import type { ApproveOptions } from "./approve.js";
import { shown, what } from "./enrollments.js";
import { finishRotation } from "./finish-rotation.js";
import { ArgumentInvalid, CommandFailed, withNextStep } from "./next-step.js";

/** So much of a fingerprint has to be typed: enough that nobody makes another request that begins so. */
const LEAST_DIGITS = 16;

/** Approves the one request that the board has shown the fingerprint of. An approved one is a success too. */
export async function approveRequest(
  client: Pick<AtClient, "atSign" | "enrollments" | "get">,
  id: string | undefined,
  { fingerprint, device, manager = false, zeroIv = false, wait, json = false }: ApproveOptions,
  signal: AbortSignal,
): Promise<void> {
  const { atSign, enrollments } = client;
  if (fingerprint !== undefined) parseFingerprint(fingerprint);
  else if (!process.stdin.isTTY || !process.stdout.isTTY)
    throw new ArgumentInvalid("name what the board shows with --fingerprint sha256:… (on a terminal you are asked)");
  const found = await candidates(enrollments, id, fingerprint, signal);
  const requests = found.filter(({ deviceName }) => device === undefined || deviceName === device);
  if (requests.length === 0) {
    const of = device === undefined ? "" : ` of ${device}`;
    throw new CommandFailed(
      `no request${of} waits for ${atSign}: has \`atedge enroll\` on the board shown a fingerprint?`,
    );
  }
  const chosen =
    fingerprint === undefined
      ? await askedFor(requests, signal)
      : requests.find((request) => request.fingerprint === fingerprint);
  if (chosen === undefined) {
    const ids = requests.map((request) => request.id).join(", ");
    throw new CommandFailed(
      `not approved: what asks for ${atSign} (${ids}) does not have this fingerprint\n` +
        "look at the board again; if it does show this, somebody else asks, or the atServer has changed the request: atedge deny",
    );
  }
  if (holdsEverything(chosen.namespaces) && !manager)
    throw new CommandFailed(
      `not approved: ${what(chosen)} asks for more than a board needs; --manager approves it all the same`,
    );
  const already = chosen.status === "approved";
  const asked = { ...(chosen.fingerprint !== undefined && { fingerprint: chosen.fingerprint }), zeroIv };
  if (!already)
    await enrollments.approve(chosen, asked, signal).catch((error: unknown) => {
      const mayUseZero = codeOf(error) === "IVS_DROPPED";
      throw withNextStep(error, mayUseZero ? "if you trust its operator with that: --zero-iv" : undefined);
    });
  const result = { ...shown(chosen), status: "approved", already };
  const text = `${atSign}: ${already ? "was approved already" : "approved"}: ${what(chosen)} (${chosen.id})`;
  process.stdout.write(`${json ? JSON.stringify(result) : text}\n`);
  const old = await finishRotation(client, chosen, wait, signal);
  if (!old) return;
  const ended = `${atSign}: revoked, as its board has new keys: ${what(old)} (${old.id})`;
  process.stdout.write(`${json ? JSON.stringify({ ...shown(old), status: "revoked" }) : ended}\n`);
}

/** What waits; approved ones too when a fingerprint can tell that the same was meant. */
async function candidates(
  enrollments: Enrollments,
  id: string | undefined,
  fingerprint: string | undefined,
  signal: AbortSignal,
): Promise<readonly Enrollment[]> {
  if (id === undefined)
    return await enrollments.list(
      { states: fingerprint === undefined ? ["pending"] : ["pending", "approved"] },
      signal,
    );
  const enrollment = await fetchEnrollment(enrollments, id, signal);
  const { status } = enrollment;
  if (status === "pending" || (status === "approved" && fingerprint !== undefined)) return [enrollment];
  throw new CommandFailed(`the enrolment ${id} does not wait: it is ${status}; the board has to enroll anew`);
}

/** @throws {CommandFailed} when there is none with that id. */
export async function fetchEnrollment(enrollments: Enrollments, id: string, signal: AbortSignal): Promise<Enrollment> {
  if (!/^[\w-]{1,80}$/u.test(id)) throw new ArgumentInvalid(`${JSON.stringify(id)} is no enrolment id`);
  return await enrollments.fetch(id, signal).catch((cause: unknown) => {
    if (codeOf(cause) !== "AT0015") throw cause;
    throw new CommandFailed(`there is no enrolment ${id}; \`atedge enrollments\` lists them`, { cause });
  });
}

/** The request whose fingerprint a human types from the board. It is not shown here, so that it has to come from there. */
async function askedFor(requests: readonly Enrollment[], signal: AbortSignal): Promise<Enrollment | undefined> {
  for (const request of requests) process.stdout.write(`asks: ${what(request)}  (${request.id})\n`);
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const answer = await terminal.question(
      `Fingerprint that the board shows, at least its first ${LEAST_DIGITS} digits: `,
      { signal },
    );
    const digits = answer
      .trim()
      .toLowerCase()
      .replace(/^sha256:/u, "")
      .replaceAll(/[\s…]/gu, "");
    if (digits === "") throw new CommandFailed("not approved: no fingerprint was given");
    if (!/^[0-9a-f]{1,64}$/u.test(digits) || digits.length < LEAST_DIGITS)
      throw new CommandFailed(`not approved: expected at least ${LEAST_DIGITS} hex digits of the fingerprint`);
    return requests.find(({ fingerprint }) => fingerprint?.startsWith(`sha256:${digits}`));
  } finally {
    terminal.close();
  }
}
