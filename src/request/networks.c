/*
 * networks.c
 *	  Settings that are lists of addresses and networks.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "utils/builtins.h"
#include "utils/inet.h"

#include "compat.h"
#include "request/networks.h"

#define NETWORK_TEXT_MAX 64
#define BLANKS " \t\n\r\f\v"

/* Reads an address or a network; blanks behind it are allowed. */
static bool
readNetwork(const char *text, size_t len, Network *network)
{
	char copy[NETWORK_TEXT_MAX];
	int bits;

	while (len > 0 && strchr(BLANKS, text[len - 1]))
		len--;
	if (len >= sizeof(copy))
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	memset(network, 0, sizeof(*network));
	network->len = strchr(copy, ':') ? 16 : 4;
	bits = pg_inet_net_pton(network->len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6, copy,
							network->bytes, -1);
	network->bits = bits;
	return bits >= 0;
}

/* Check hook: addresses and networks separated by commas, or nothing. */
bool
NetworksCheck(char **value, void **extra, GucSource source)
{
	const char *at = *value;
	int commas = 0;
	NetworkList *list;

	for (const char *c = at; *c; c++)
		commas += (*c == ',');
	list = guc_malloc(LOG, offsetof(NetworkList, networks) + (commas + 1) * sizeof(Network));
	if (list == NULL)
		return false;
	list->count = 0;
	*extra = list;
	if (at[strspn(at, BLANKS)] == '\0')
		return true;
	for (;;)
	{
		size_t len;

		at += strspn(at, BLANKS);
		len = strcspn(at, ",");

		if (!readNetwork(at, len, &list->networks[list->count++]))
		{
			GUC_check_errdetail("\"%.*s\" is not an address or a network.",
								(int) Min(len, NETWORK_TEXT_MAX), at);
			return false;
		}
		if (at[len] == '\0')
			return true;
		at += len + 1;
	}
}

bool
NetworksHave(const NetworkList *list, const PatternAddress *address)
{
	for (int i = 0; i < list->count; i++)
	{
		const Network *network = &list->networks[i];

		if (PatternNetworkContains(network->bytes, network->len, network->bits, address))
			return true;
	}
	return false;
}
