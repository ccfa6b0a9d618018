import { enroll, type Enroll } from "../../protocol/verbs/enroll.js";
import { Refusal } from "../refusal.js";
import type { Reply } from "../reply.js";
import type { Services } from "../services.js";
import { verb, type Call } from "../verb.js";
import { approve, deleteEnrollment, deny, revoke, unrevoke } from "./enroll-decide.js";
import { requestEnrollment } from "./enroll-request.js";
import { fetchEnrollment, listEnrollments } from "./enroll-show.js";

type Run = (command: Enroll, call: Call, services: Services) => Reply | Promise<Reply>;

const OPERATIONS: Readonly<Record<Enroll["operation"], Run>> = {
  request: ({ params }, call, services) => requestEnrollment(params, call, services),
  approve: ({ params }, call, services) => approve(params, call, services),
  deny: ({ params }, call, services) => deny(params, call, services),
  revoke: ({ params, force }, call, services) => revoke(params, force, call, services),
  unrevoke: ({ params }, call, services) => unrevoke(params, call, services),
  delete: ({ params }, call, services) => deleteEnrollment(params, call, services),
  list: ({ params }, call, services) => listEnrollments(params, call.session, services),
  fetch: ({ params }, call, services) => fetchEnrollment(params, call.session, services),
};

/** `enroll`: keys for further devices and apps, asked for with a passcode and approved by a manager (spec 3.28). */
export const enrollVerb = verb(enroll, false, (command, call, services) => {
  const { operation } = command;
  if (operation !== "request" && !call.session.authentication) {
    throw new Refusal("AT0401", `Cannot ${operation} enrollment without authentication`);
  }
  return OPERATIONS[operation](command, call, services);
});
