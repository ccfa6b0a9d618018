import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { atKeysPath } from "../atplatform/crypto/at-keys-file.js";
import { AlreadyActivated } from "../atplatform/client/errors.js";
import { onboard, type OnboardStep } from "../atplatform/client/onboard.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import { parseDirectoryAddress } from "../atplatform/transport/directory.js";
import { codeOf } from "../core/errors.js";
import { Secret } from "../core/secret.js";
import { fingerprintOf } from "../messages/pins.js";
import { CommandFailed, nextStepToReach, withNextStep } from "./next-step.js";
import { readCa } from "./read-ca.js";
import { interruption } from "./remote-options.js";

export interface OnboardArguments {
  readonly cramFile: string;
  readonly keyFile: string | undefined;
  readonly directory: string;
  readonly caFile: string | undefined;
  readonly json: boolean;
}

const STEPS: Readonly<Record<OnboardStep, string>> = {
  wait: "waiting for the atServer",
  keys: "making keys",
  secret: "logging in with the secret",
  enroll: "making the keys known",
  login: "logging in with the keys",
  publish: "publishing the encryption key",
  finish: "deleting the secret",
};

/** Onboards, telling its progress on standard error. An atSign that these keys own already is a success too. */
export async function onboardAtSign(name: string, args: OnboardArguments): Promise<void> {
  const atSign = parseAtSign(name);
  const keyFile = args.keyFile ?? atKeysPath(atSign);
  const ca = await readCa(args.caFile);
  const secret = await readSecret(args.cramFile);
  const steps: OnboardStep[] = [];
  const keys = await onboard(
    {
      atSign,
      secret,
      directory: parseDirectoryAddress(args.directory),
      ...ca,
      keyFile,
      onStep(step) {
        steps.push(step);
        process.stderr.write(`${atSign}: ${STEPS[step]} …\n`);
      },
    },
    interruption(),
  ).catch((error: unknown) => {
    throw withNextStep(error, nextStep(error, atSign, keyFile));
  });
  const already = !steps.includes("secret");
  const fingerprint = fingerprintOf(keys.encryption.publicText);
  if (args.json) {
    process.stdout.write(
      `${JSON.stringify({ atsign: atSign, keys: keyFile, fingerprint, alreadyActivated: already })}\n`,
    );
    return;
  }
  const what = already ? "was activated already with the keys in" : "is activated; its keys are in";
  process.stdout.write(
    `${atSign} ${what} ${keyFile}\n` +
      `keep a copy of that file at a safe place: whoever has it is ${atSign}, and without it the atSign is lost\n` +
      `it does not go onto a board: \`atedge otp --as ${atSign}\` here, then \`atedge enroll ${atSign}\` there\n` +
      `fingerprint for [[reader]] and [[allow]]: ${fingerprint}\n`,
  );
}

async function readSecret(file: string): Promise<Secret> {
  const secret = (file === "-" ? await text(process.stdin) : await readFile(file, "utf8")).trim();
  if (secret === "") throw new CommandFailed(`${file} is empty: it should hold the secret that the registrar gave`);
  return new Secret(secret);
}

function nextStep(error: unknown, atSign: string, keyFile: string): string | undefined {
  if (error instanceof AlreadyActivated)
    return `somebody has activated ${atSign} with other keys. If that was you, name their file with --keys; ${keyFile} is not of use`;
  if (codeOf(error) === "AT0401")
    return "the atServer does not take this secret: has it been used up, or was it cut when it was copied?";
  return nextStepToReach(error, atSign);
}
