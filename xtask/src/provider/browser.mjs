// A user's browser with a page that signs her in: authorization code with PKCE (RFC 6749 §4.1, RFC 7636). Prints the tokens, or the error.
import crypto from 'node:crypto'

const [provider, resource, scope, verifies] = process.argv.slice(2)
const callback = 'http://127.0.0.1/callback'
const secret = () => crypto.randomBytes(32).toString('base64url')
const [verifier, state] = [secret(), secret()]

const cookies = new Map()

/** Follows redirects, as browsers do, until one leads back to the page. */
async function follow(url) {
  for (let hops = 0; hops < 10; hops += 1) {
    const cookie = [...cookies].map((pair) => pair.join('=')).join('; ')
    const answer = await fetch(url, { redirect: 'manual', headers: { cookie } })
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(';')[0].split('=')
      cookies.set(name, value)
    }
    const location = answer.headers.get('location')
    if (!location) throw new Error(`${answer.status} ${await answer.text()}`)
    url = new URL(location, url)
    if (url.href.startsWith(callback)) return url.searchParams
  }
  throw new Error('too many redirects')
}

const challenge = crypto.createHash('sha256').update(verifier).digest('base64url')
const asked = {
  client_id: 'page',
  response_type: 'code',
  redirect_uri: callback,
  scope: `openid ${scope}`,
  resource,
  state,
  code_challenge: challenge,
  code_challenge_method: 'S256',
}
const told = await follow(new URL(`/auth?${new URLSearchParams(asked)}`, provider))
if (told.get('state') !== state) throw new Error('the answer is to somebody else')
const form = {
  client_id: 'page',
  grant_type: 'authorization_code',
  redirect_uri: callback,
  code: told.get('code') ?? '',
  code_verifier: verifies === 'yes' ? verifier : secret(),
  resource,
}
const answer = await fetch(new URL('/token', provider), { method: 'POST', body: new URLSearchParams(form) })
process.stdout.write(JSON.stringify(await answer.json()))
