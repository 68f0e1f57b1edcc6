export { ActPass, type Action, type ActPassOptions, type GuardOptions, type GuardResult } from './client.js'
export { verifyEvidence, type VerifiedBundle } from './evidence.js'
export { ActPassError, ExpiredError, HeldError, MisusedError, RefusedError, UnreachableError } from './errors.js'
export type * from './wire.js'
