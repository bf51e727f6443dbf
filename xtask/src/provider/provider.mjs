// A certified OpenID Connect provider, with three clients: one that obtains tokens for itself, a page that obtains them for its user, and one
// that asks about them.
import crypto from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import Provider from 'oidc-provider'

const [port, folder, ...names] = process.argv.slice(2)

/** The key of this name, made on first use and kept. */
function key(name) {
  const file = `${folder}/${name}.json`
  if (!fs.existsSync(file)) {
    const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
    const jwk = { ...privateKey.export({ format: 'jwk' }), kid: name, use: 'sig', alg: 'RS256' }
    fs.writeFileSync(file, JSON.stringify(jwk), { mode: 0o600 })
  }
  return JSON.parse(fs.readFileSync(file, 'utf8'))
}

const client = (client_id, grant_types) => ({
  client_id,
  client_secret: `secret of ${client_id}`,
  grant_types,
  redirect_uris: [],
  response_types: [],
})

/** A page in a browser: it has no secret, so it proves with a verifier that a code is its own (PKCE, RFC 7636). */
const page = {
  client_id: 'page',
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code'],
  response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback'],
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [client('shop', ['client_credentials']), client('gateway', []), page],
  cookies: { keys: ['of this run'] },
  findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  interactions: { url: (_, { uid }) => `/interaction/${uid}` },
  jwks: { keys: names.map(key) },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // A resource says for whom a token is, and in which form: `urn:users:jwt`, `urn:orders:opaque`.
      getResourceServerInfo: (_, resource) => {
        const [, audience, accessTokenFormat] = resource.split(':')
        return { scope: 'users:read users:write', audience, accessTokenFormat, accessTokenTTL: 600 }
      },
    },
  },
})

/** Ada is asked who she is and whether the page may act for her, and says so at once. */
async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response)
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'ada' } })
  }
  const { accountId } = session
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId, clientId: params.client_id })
  grant.addOIDCScope('openid')
  for (const [resource, scopes] of Object.entries(prompt.details.missingResourceScopes ?? {})) {
    grant.addResourceScope(resource, scopes.join(' '))
  }
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } })
}

const answer = provider.callback()
const server = http.createServer((request, response) => {
  if (!request.url.startsWith('/interaction/')) return answer(request, response)
  interact(request, response).catch((error) => response.writeHead(500).end(String(error)))
})
server.listen(Number(port), '127.0.0.1')
