/*
 * client.c
 *	  The address of the client, which proxies tell: client_address.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "fmgr.h"
#include "utils/inet.h"

#include "compat.h"
#include "pure/forwarded.h"
#include "request/client.h"
#include "request/networks.h"

char *ClientTrustedProxies;

static const NetworkList *trusted_proxies;

PG_FUNCTION_INFO_V1(apikeys_client_address);

void
ClientAssignTrustedProxies(const char *value, void *extra)
{
	trusted_proxies = extra;
}

static bool
isTrusted(const PatternAddress *address)
{
	return NetworksHave(trusted_proxies, address);
}

/* SQL: client_address. */
Datum
apikeys_client_address(PG_FUNCTION_ARGS)
{
	inet *peer;
	inet *client;
	text *forwarded;
	PatternAddress address;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	peer = PG_GETARG_INET_PP(1);
	PatternAddressSet(&address, ip_addr(peer), ip_addrsize(peer));
	if (!PG_ARGISNULL(0) && isTrusted(&address))
	{
		forwarded = PG_GETARG_TEXT_PP(0);
		ForwardedWalk(VARDATA_ANY(forwarded), VARSIZE_ANY_EXHDR(forwarded), isTrusted, &address);
	}
	client = palloc0(sizeof(inet));
	ip_family(client) = address.len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(client) = address.len * BITS_PER_BYTE;
	memcpy(ip_addr(client), address.bytes, address.len);
	SET_INET_VARSIZE(client);
	PG_RETURN_INET_P(client);
}
