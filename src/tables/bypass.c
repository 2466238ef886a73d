/*
 * bypass.c
 *	  Triggers, rules and constraints that the writer would bypass.
 *
 * The writer changes rows without SQL (rows.c), or by SQL with
 * session_replication_role = replica: nothing that somebody has planted may run
 * in it.  But tools such as pg_repack count on a trigger that sees every
 * change, and lose what they do not see.  So the writer refuses to write to a
 * table where a trigger, a rule, or a constraint that is checked by a trigger
 * would be bypassed.  The error is transient: it goes on when that is gone.
 *
 * The relation must be locked against CREATE TRIGGER and CREATE RULE, as every
 * lock for writing does.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "rewrite/prs2lock.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "tables/bypass.h"

/* A value of pg_trigger.tgenabled, or of pg_rewrite.ev_enabled. */
static bool
firesOnOrigin(char enabled)
{
	return enabled == TRIGGER_FIRES_ON_ORIGIN || enabled == TRIGGER_FIRES_ALWAYS;
}

/* Tells whether a trigger is for changes that the writer makes. */
static bool
isBypassed(const Trigger *trigger, bool deletes)
{
	if (!firesOnOrigin(trigger->tgenabled) ||
		!(TRIGGER_FOR_INSERT(trigger->tgtype) || TRIGGER_FOR_UPDATE(trigger->tgtype) ||
		  (deletes && TRIGGER_FOR_DELETE(trigger->tgtype))))
		return false;
	/* our own guards refuse what the writer never does */
	if (get_func_namespace(trigger->tgfoid) == get_namespace_oid("apikeys_internal", true))
		return false;
	/* the writer does not change what foreign keys refer to */
	return RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_PK;
}

/*
 * Raises an error if the table has something that the writer would bypass when
 * it inserts and updates rows, or deletes them, too.
 */
void
BypassRefuse(Relation rel, bool deletes)
{
	const TriggerDesc *triggers = rel->trigdesc;
	const RuleLock *rules = rel->rd_rules;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (isBypassed(trigger, deletes))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("apikeys.%s has %s %s, which the writer would bypass",
							RelationGetRelationName(rel),
							trigger->tgisinternal ? "constraint" : "trigger",
							trigger->tgisinternal ? get_constraint_name(trigger->tgconstraint) :
													trigger->tgname),
					 errhint("The writer goes on when it is dropped or disabled.")));
	}
	for (int i = 0; rules && i < rules->numLocks; i++)
		if (rules->rules[i]->event != CMD_SELECT && firesOnOrigin(rules->rules[i]->enabled) &&
			(deletes || rules->rules[i]->event != CMD_DELETE))
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("apikeys.%s has a rule, which the writer would bypass",
								   RelationGetRelationName(rel)),
							errhint("The writer goes on when it is dropped or disabled.")));
}
