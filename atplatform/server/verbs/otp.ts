import { randomInt } from "node:crypto";
import { otp } from "../../protocol/verbs/otp.js";
import { isManagerSession } from "../authorise.js";
import { refused } from "../refusal.js";
import { data } from "../reply.js";
import { verb } from "../verb.js";

const DEFAULT_LIFE_MS = 5 * 60_000;
const LENGTH = 6;
/** No `0` and no `O`: people read it out. */
const DIGITS = "123456789";
const ALPHABET = `${DIGITS}ABCDEFGHIJKLMNPQRSTUVWXYZ`;

/** `otp:get` issues a passcode for one enrolment request, `otp:put` sets one that stays. */
export const otpVerb = verb(otp, true, async (command, { session }, services) => {
  const { commits, passcodes, enrollments, clock } = services;
  if (command.action === "get") {
    const code = makePasscode();
    await commits.write(() => passcodes.addOneTime(code, clock.now() + (command.ttlMs ?? DEFAULT_LIFE_MS)));
    return data(code);
  }
  const { passcode, ttlMs } = command;
  if (!isManagerSession(session, enrollments, clock.now())) {
    throw refused("Client not allowed to not store semi permanent pass code");
  }
  await commits.write(() => passcodes.setPermanent(passcode, ttlMs === undefined ? undefined : clock.now() + ttlMs));
  return data("ok");
});

/** At least one digit. */
function makePasscode(): string {
  const characters = Array.from({ length: LENGTH }, () => ALPHABET.charAt(randomInt(ALPHABET.length)));
  if (!characters.some((character) => DIGITS.includes(character))) {
    characters[randomInt(LENGTH)] = DIGITS.charAt(randomInt(DIGITS.length));
  }
  return characters.join("");
}
