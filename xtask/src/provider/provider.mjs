// A certified OpenID Connect provider, with two clients: one that obtains tokens and one that asks about them.
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

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [client('shop', ['client_credentials']), client('gateway', [])],
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

http.createServer(provider.callback()).listen(Number(port), '127.0.0.1')
